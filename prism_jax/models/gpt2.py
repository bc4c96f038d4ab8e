"""GPT-2 (Radford et al., 2019), equal to Hugging Face's `GPT2Model` and `GPT2LMHeadModel`. For its batches, see
`models.causal`."""

from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp

from prism_jax.exchange.base import Exchanges
from prism_jax.layers.attention import KVCache
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.dropout import dropout
from prism_jax.layers.embeddings import embedding, vocabulary_logits
from prism_jax.layers.transformer import Stack, layer_norm
from prism_jax.models.causal import CausalLanguageModel, CausalModel
from prism_jax.parallel.partition import Layout
from prism_jax.records import Count, Share


@dataclass(frozen=True)
class GPT2Config:
    """A GPT-2 model.

    Attributes:
      stack: the blocks.
      vocab_size: V.
      num_positions: rows of the position table, the longest N.
      embedding_dropout: rate on the embeddings.
    """

    stack: TransformerConfig
    vocab_size: Count = 50257
    num_positions: Count = 1024
    embedding_dropout: Share = 0.1


def _preset(num_layers: int, features: int, num_heads: int) -> GPT2Config:
    return GPT2Config(
        TransformerConfig(
            num_layers,
            features,
            num_heads,
            4 * features,
            "gelu_new",
            norm_eps=1e-5,
            causal=True,
            dropout=0.1,
            attention_dropout=0.1,
        )
    )


GPT2 = _preset(12, 768, 12)
"""`openai-community/gpt2`: 124,439,808 parameters."""
GPT2_MEDIUM = _preset(24, 1024, 16)
GPT2_LARGE = _preset(36, 1280, 20)
GPT2_XL = _preset(48, 1600, 25)


class GPT2Encoder(nn.Module):
    """Embeddings, blocks and the last norm."""

    config: GPT2Config

    def setup(self):
        config, stack = self.config, self.config.stack
        self.token = embedding(config.vocab_size, stack)
        self.position = embedding(config.num_positions, stack)
        self.blocks = Stack(stack)
        self.norm = layer_norm(stack)

    def __call__(
        self, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Returns the rows of this part [B, T, D], and the keys and values that every block attended to."""
        position_BT = jnp.minimum(layout.real_before_BT, self.config.num_positions - 1)  # P*T may pass N by up to P - 1
        x_BTD = self.token(tokens["ids"]) + self.position(position_BT)
        keys_B = replace(layout, block=self.config.stack.num_layers).block_keys_B
        x_BTD = dropout(x_BTD, self.config.embedding_dropout, keys_B, site=0)
        x_BTD, caches = self.blocks(x_BTD, exchange, layout)
        return self.norm(x_BTD), caches

    def extend(
        self, ids_B: jax.Array, place_B: jax.Array, caches: tuple[KVCache, ...], room: jax.Array
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Returns the row [B, 1, D] of one more token, and the caches with it, see `Block.extend`."""
        x_B1D = self.token(ids_B[:, None]) + self.position(place_B[:, None])
        x_B1D, caches = self.blocks.extend(x_B1D, place_B[:, None], caches, room)
        return self.norm(x_B1D), caches


class GPT2Model(CausalModel):
    """Every hidden state."""

    config: GPT2Config

    def setup(self):
        self.encoder = GPT2Encoder(self.config)


class GPT2LMHeadModel(CausalLanguageModel, GPT2Model):
    """Logits of the next token for every token, from the token table itself."""

    def logits(self, x_BND: jax.Array) -> jax.Array:
        return vocabulary_logits(x_BND, self.encoder.token, self.config.stack)
