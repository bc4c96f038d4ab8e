"""Sizes and rates of a stack of blocks."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.rotary import Rotary
from prism_jax.records import NotNegative, Share, Width

COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and rates of a stack of blocks.

    Attributes:
      num_layers: number of blocks.
      features: D.
      num_heads: H, heads of queries.
      mlp_features: M, the width inside the MLP.
      activation: a key of ACTIVATIONS.
      norm_eps: epsilon of every norm.
      norm_first: True for pre-norm (ViT, GPT-2, Llama), False for post-norm (BERT).
      causal: whether a token sees only itself and earlier ones.
      qkv_bias: whether queries, keys and values have a bias.
      output_bias: whether the output of attention has a bias.
      mlp_bias: whether the layers of the MLP have a bias.
      num_kv_heads: G, heads of keys and values; each serves H / G heads of queries (grouped-query attention, arXiv
        2305.13245). None for H.
      head_features: F, numbers in a head. None for D / H.
      rms_norm: True for norms without mean and bias (RMSNorm, arXiv 1910.07467), in place of layer norms.
      query_key_norm: whether queries and keys have an RMS norm over each head (Qwen3).
      gated: True for an MLP of three layers, `down(activation(gate(x)) * up(x))` (arXiv 2002.05202).
      layer_scale: whether the outputs of attention and MLP are multiplied by a trained factor for each feature before
        they are added to the residual stream (arXiv 2103.17239).
      rotary: rotary positions of queries and keys; None for a model that adds positions to its embeddings.
      compute_dtype: "float32" or "bfloat16", of the inputs of the matrix products. Weights, the residual stream, norms,
        softmax, logits and exchanged rows stay float32.
      dropout: rate on the outputs of attention and MLP, and on the embeddings. Active only where keys are given.
      attention_dropout: rate on the attention weights.
      init_scale: standard deviation of fresh weights.
    """

    num_layers: Annotated[int, Meta(ge=1, le=256, description="1 or more, up to 256")]
    features: Width
    num_heads: Width
    mlp_features: Width
    activation: str = "gelu"
    norm_eps: NotNegative = 1e-12
    norm_first: bool = True
    causal: bool = False
    qkv_bias: bool = True
    output_bias: bool = True
    mlp_bias: bool = True
    num_kv_heads: Width | None = None
    head_features: Width | None = None
    rms_norm: bool = False
    query_key_norm: bool = False
    gated: bool = False
    layer_scale: bool = False
    rotary: Rotary | None = None
    compute_dtype: str = "float32"
    dropout: Share = 0.0
    attention_dropout: Share = 0.0
    init_scale: NotNegative = 0.02

    def __post_init__(self):
        if self.num_heads < 1 or (self.head_features is None and self.features % self.num_heads):
            raise InputError(
                f"{self.features} features don't divide into {self.num_heads} heads; choose num_heads that divides it"
            )
        if self.kv_heads < 1 or self.num_heads % self.kv_heads:
            raise InputError(
                f"{self.num_heads} heads of queries don't divide among {self.kv_heads} of keys and values; choose "
                "num_kv_heads that divides num_heads"
            )
        if self.rotary and self.head_width % 2:
            raise InputError(
                f"a head has {self.head_width} features, but rotary positions turn pairs; choose an even number"
            )
        if self.activation not in ACTIVATIONS:
            raise InputError(f"unknown activation {self.activation!r}; known are {', '.join(ACTIVATIONS)}")
        if self.compute_dtype not in COMPUTE_DTYPES:
            raise InputError(f"compute_dtype is {self.compute_dtype!r}; choose one of {', '.join(COMPUTE_DTYPES)}")

    @property
    def kv_heads(self) -> int:
        """G, heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """F, numbers in a head."""
        return self.features // self.num_heads if self.head_features is None else self.head_features

    @property
    def query_features(self) -> int:
        """H F, numbers in the queries of a row."""
        return self.num_heads * self.head_width

    @property
    def kv_features(self) -> int:
        """G F, numbers in the keys of a row, and in its values."""
        return self.kv_heads * self.head_width

    def width_of(self, exchange: Exchange) -> int:
        """Returns the numbers in a row that an exchange is called on: D, or 2 G F for keys and values."""
        return 2 * self.kv_features if exchange.keys_values else self.features
