"""Tables of embeddings, and the logits that come from the token table."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.parameters import ReadParameters


class Embed(ReadParameters, nn.Embed):
    """`flax.linen.Embed`, but every id without a row gives NaN: negative ones too, and in a table of one row."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        table = jnp.asarray(self.embedding)  # NumPy's, outside of jit
        return table.at[inputs].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def embedding(rows: int, config: TransformerConfig) -> Embed:
    """Returns a table of embeddings, [rows, D]."""
    return Embed(rows, config.features, embedding_init=nn.initializers.normal(config.init_scale))


def vocabulary_logits(x_BND: jax.Array, token: nn.Embed, config: TransformerConfig) -> jax.Array:
    """Returns float32 logits [B, N, V] by the token table: the tied head of language models."""
    table_VD, dtype = token.embedding, config.compute_dtype
    return jnp.einsum("BND,VD->BNV", x_BND.astype(dtype), table_VD.astype(dtype), preferred_element_type=jnp.float32)


def check_length(num_positions: int, num_tokens: int, first: int = 0) -> None:
    """Raises InputError if a sequence, whose positions begin at `first`, is longer than the position table."""
    if num_tokens > num_positions - first:
        unused = f", of which tokens have those from {first} on" if first else ""
        raise InputError(
            f"a sequence of {num_tokens} tokens, but the position table has {num_positions} rows{unused}; "
            f"choose num_tokens <= {num_positions - first}"
        )
