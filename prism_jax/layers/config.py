"""Sizes and rates of a stack of blocks."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from prism_jax.errors import InputError
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.records import NotNegative, Share, Width

COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and rates of a stack of blocks.

    Attributes:
      num_layers: number of blocks.
      features: D.
      num_heads: H; divides D.
      mlp_features: M, the width inside the MLP.
      activation: a key of ACTIVATIONS.
      norm_eps: epsilon of every layer norm.
      norm_first: True for pre-norm (ViT, GPT-2), False for post-norm (BERT).
      causal: whether a token sees only itself and earlier ones.
      qkv_bias: whether queries, keys and values have a bias.
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
    compute_dtype: str = "float32"
    dropout: Share = 0.0
    attention_dropout: Share = 0.0
    init_scale: NotNegative = 0.02

    def __post_init__(self):
        if self.num_heads < 1 or self.features % self.num_heads:
            raise InputError(
                f"{self.features} features don't divide into {self.num_heads} heads; choose num_heads that divides it"
            )
        if self.activation not in ACTIVATIONS:
            raise InputError(f"unknown activation {self.activation!r}; known are {', '.join(ACTIVATIONS)}")
        if self.compute_dtype not in COMPUTE_DTYPES:
            raise InputError(f"compute_dtype is {self.compute_dtype!r}; choose one of {', '.join(COMPUTE_DTYPES)}")
