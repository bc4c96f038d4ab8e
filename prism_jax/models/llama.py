"""Llama (arXiv 2307.09288), equal to Hugging Face's `LlamaModel` and `LlamaForCausalLM`. For its batches, see
`models.causal`.

Llama 2, 3.1 and 3.2, SmolLM2 and others have these blocks: RMS norms, rotary positions, keys and values shared among
heads of queries, and a gated MLP.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax

from prism_jax.exchange.base import Exchanges
from prism_jax.layers.attention import KVCache
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.embeddings import embedding, vocabulary_logits
from prism_jax.layers.rotary import Rotary
from prism_jax.layers.transformer import Stack, head_dense, norm
from prism_jax.models.causal import CausalLanguageModel, CausalModel
from prism_jax.parallel.partition import Layout
from prism_jax.records import Count


@dataclass(frozen=True)
class LlamaConfig:
    """A model with Llama's blocks, or Qwen2's or Qwen3's.

    Attributes:
      stack: the blocks.
      vocab_size: V.
      num_positions: the longest N.
      tied: whether the head is the token table. Otherwise it is a dense layer of its own.
    """

    stack: TransformerConfig
    vocab_size: Count = 32_000
    num_positions: Count = 2048
    tied: bool = False


SMOLLM2_135M = LlamaConfig(
    TransformerConfig(
        30,
        576,
        9,
        1536,
        "silu",
        norm_eps=1e-5,
        causal=True,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        num_kv_heads=3,
        head_features=64,
        rms_norm=True,
        gated=True,
        rotary=Rotary(100_000.0),
    ),
    vocab_size=49_152,
    num_positions=8192,
    tied=True,
)
"""`HuggingFaceTB/SmolLM2-135M-Instruct`: 134,515,008 parameters."""


class LlamaEncoder(nn.Module):
    """The token table, the blocks and the last norm."""

    config: LlamaConfig

    def setup(self):
        config, stack = self.config, self.config.stack
        self.token = embedding(config.vocab_size, stack)
        self.blocks = Stack(stack)
        self.norm = norm(stack)

    def __call__(
        self, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Returns the rows of this part [B, T, D], and the keys and values that every block attended to."""
        x_BTD, caches = self.blocks(self.token(tokens["ids"]), exchange, layout)
        return self.norm(x_BTD), caches

    def extend(
        self, ids_B: jax.Array, place_B: jax.Array, caches: tuple[KVCache, ...], room: jax.Array
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Returns the row [B, 1, D] of one more token, and the caches with it, see `Block.extend`."""
        x_B1D, caches = self.blocks.extend(self.token(ids_B[:, None]), place_B[:, None], caches, room)
        return self.norm(x_B1D), caches


class LlamaModel(CausalModel):
    """Every hidden state."""

    config: LlamaConfig

    def setup(self):
        self.encoder = LlamaEncoder(self.config)


class LlamaForCausalLM(CausalLanguageModel, LlamaModel):
    """Logits of the next token for every token, from the token table itself or from a layer of its own."""

    def setup(self):
        super().setup()
        if not self.config.tied:
            self.lm_head = head_dense(self.config.vocab_size, self.config.stack, use_bias=False)

    def logits(self, x_BND: jax.Array) -> jax.Array:
        if self.config.tied:
            return vocabulary_logits(x_BND, self.encoder.token, self.config.stack)
        return self.lm_head(x_BND)
