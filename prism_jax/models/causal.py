"""Base classes of causal models: every hidden state, the logits of the next token, and generation.

A batch holds `ids` int32 [B, N] and optionally `mask` [B, N] (1 = real). The place of a token is the number of real
tokens before it, as in Hugging Face's `generate`, so that padding on either side changes nothing.
"""

import jax
import jax.numpy as jnp

from prism_jax.exchange.base import Exchanges
from prism_jax.layers.attention import KVCache
from prism_jax.layers.embeddings import check_length
from prism_jax.models.base import Model
from prism_jax.parallel.partition import Layout


class CausalModel(Model):
    """Every hidden state. Abstract: a subclass sets up `self.encoder`, which returns rows and the keys and values of
    every block. Its config has a `num_positions`, the longest N."""

    def part(self, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges) -> jax.Array:
        return self.encoder(tokens, layout, exchange)[0]

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns hidden states [B, N, D]."""
        return rows_BRD[:, : real_BN.shape[1]]

    def check(self, num_tokens: int) -> None:
        check_length(self.config.num_positions, num_tokens)

    def batch_shapes(self, batch_size: int, num_tokens: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"ids": jax.ShapeDtypeStruct((batch_size, num_tokens), jnp.int32)}


class CausalLanguageModel(CausalModel):
    """Logits of the next token for every token. Abstract: a subclass has `logits`."""

    def logits(self, x_BND: jax.Array) -> jax.Array:
        """Returns logits [B, N, V] of the token after each row."""
        raise NotImplementedError

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, N, V]."""
        return self.logits(rows_BRD[:, : real_BN.shape[1]])

    def prefill(
        self, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Returns the rows of `part`, and the keys and values that every block attended to. Generation starts here."""
        return self.encoder(tokens, layout, exchange)

    def extend(
        self, ids_B: jax.Array, place_B: jax.Array, caches: tuple[KVCache, ...], room: jax.Array
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Returns logits [B, V] after one more token, and the caches with it, see `Block.extend`."""
        row_B1D, caches = self.encoder.extend(ids_B, place_B, caches, room)
        return self.logits(row_B1D)[:, 0], caches
