"""One Transformer block for all models and all exchanges."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax

from prism_jax.attention import attend, attention_bias
from prism_jax.errors import InputError
from prism_jax.exchange import Context, Exchange, Exchanges, per_block
from prism_jax.partition import Layout

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
"""Activations by their Hugging Face name."""


@dataclass(frozen=True)
class TransformerConfig:
    """What a stack of blocks needs to know.

    Attributes:
      num_layers: blocks.
      features: D.
      num_heads: H; divides D.
      mlp_features: M, the width inside the MLP.
      activation: a key of ACTIVATIONS.
      norm_eps: epsilon of every layer norm.
      norm_first: True for pre-norm (ViT, GPT-2), False for post-norm (BERT).
      causal: whether a token sees only itself and earlier ones.
      dropout: rate on the outputs of attention and MLP, and on the embeddings. Active only where keys are given.
      attention_dropout: rate on the attention weights.
      init_scale: standard deviation of fresh weights.
    """

    num_layers: int
    features: int
    num_heads: int
    mlp_features: int
    activation: str = "gelu"
    norm_eps: float = 1e-12
    norm_first: bool = True
    causal: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_scale: float = 0.02

    def __post_init__(self):
        if self.num_heads < 1 or self.features % self.num_heads:
            raise InputError(
                f"{self.features} features don't divide into {self.num_heads} heads; choose num_heads that divides it"
            )
        if self.activation not in ACTIVATIONS:
            raise InputError(f"unknown activation {self.activation!r}; known are {', '.join(ACTIVATIONS)}")


def keep_factors(shape: tuple[int, ...], rate: float, layout: Layout, site: int) -> jax.Array | None:
    """Dropout as factors, 0 or 1 / (1 - rate), with a key for each example, part, block and `site` within the block.

    None where nothing is dropped. Keys belong to examples, so that cutting the batch over a mesh changes nothing.
    """
    if layout.keys_B is None or rate == 0.0:
        return None
    fold = jax.vmap(jax.random.fold_in, (0, None))
    keys_B = fold(fold(layout.keys_B, layout.block), site)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape[1:]))(keys_B)
    return kept / (1 - rate)


def dropout(x: jax.Array, rate: float, layout: Layout, site: int) -> jax.Array:
    """`x` with dropout, see `keep_factors`."""
    keep = keep_factors(x.shape, rate, layout, site)
    return x if keep is None else x * keep.astype(x.dtype)


def dense(features: int, config: TransformerConfig, name: str | None = None) -> nn.Dense:
    return nn.Dense(features, kernel_init=nn.initializers.normal(config.init_scale), name=name)


def layer_norm(config: TransformerConfig, name: str | None = None) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.norm_eps, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Queries from this part's rows, keys and values from the context."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context, layout: Layout) -> jax.Array:
        D, H = self.config.features, self.config.num_heads

        def heads(name, y):
            y = dense(D, self.config, name)(y)
            return y.reshape(*y.shape[:2], H, D // H).swapaxes(1, 2)

        q_BHTF, k_BHKF, v_BHKF = heads("query", x_BTD), heads("key", context.x_BKD), heads("value", context.x_BKD)
        with jax.named_scope("softmax"):
            bias = attention_bias(context.count_BK, context.last_K, layout.positions_T, causal=self.config.causal)
            keep = keep_factors((*q_BHTF.shape[:3], k_BHKF.shape[2]), self.config.attention_dropout, layout, site=0)
            out_BHTF = attend(q_BHTF, k_BHKF, v_BHKF, bias, keep)
        out_BTD = out_BHTF.swapaxes(1, 2).reshape(x_BTD.shape)
        return dropout(dense(D, self.config, "output")(out_BTD), self.config.dropout, layout, site=1)


class Mlp(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        h_BTM = dense(self.config.mlp_features, self.config, "up")(x_BTD)
        with jax.named_scope("activation"):
            h_BTM = ACTIVATIONS[self.config.activation](h_BTM)
        return dropout(dense(self.config.features, self.config, "down")(h_BTM), self.config.dropout, layout, site=2)


class Block(nn.Module):
    """Exchange, attend, MLP. What crosses the mesh is the residual stream; in pre-norm the receiver normalises it."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, exchange: Exchange, layout: Layout) -> jax.Array:
        attention, mlp = Attention(self.config, name="attention"), Mlp(self.config, name="mlp")
        norm_1, norm_2 = layer_norm(self.config, "norm_1"), layer_norm(self.config, "norm_2")
        with jax.named_scope("exchange"):
            context = exchange(x_BTD, layout)
        expected = x_BTD.shape[1] + (layout.num_parts - 1) * exchange.rows_sent(layout.part_len)
        if context.x_BKD.shape[1] != expected:
            raise InputError(
                f"{exchange} gave a context of {context.x_BKD.shape[1]} rows, but by its rows_sent it should be {expected}; "
                "it sends another number of rows than it says, or a part has too few tokens for it"
            )
        if self.config.norm_first:
            context = replace(context, x_BKD=norm_1(context.x_BKD))
            x_BTD = x_BTD + attention(norm_1(x_BTD), context, layout)
            return x_BTD + mlp(norm_2(x_BTD), layout)
        x_BTD = norm_1(x_BTD + attention(x_BTD, context, layout))
        return norm_2(x_BTD + mlp(x_BTD, layout))


class Stack(nn.Module):
    """The blocks, each with its own exchange."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, exchange: Exchanges, layout: Layout) -> jax.Array:
        for i, one in enumerate(per_block(exchange, self.config.num_layers)):
            x_BTD = Block(self.config, name=f"block_{i}")(x_BTD, one, replace(layout, block=i))
        return x_BTD
