"""One Transformer block for all models and all exchanges."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.base import Context, Exchange, Exchanges, per_block
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.attention import KVCache, attend_in_blocks, attention_bias, weight_bias
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.dense import DOT_GENERALS, Dense
from prism_jax.layers.dropout import dropout, keep_factors
from prism_jax.layers.parameters import ReadParameters
from prism_jax.layers.rotary import rotate
from prism_jax.parallel.partition import Layout


def dense(features: int, config: TransformerConfig, *, use_bias: bool = True) -> Dense:
    """Returns a dense layer of a block, from [..., D] to [..., features]."""
    init = nn.initializers.normal(config.init_scale)
    return Dense(features, use_bias=use_bias, kernel_init=init, dot_general=DOT_GENERALS[config.compute_dtype])


def head_dense(features: int, config: TransformerConfig, *, use_bias: bool = True) -> Dense:
    """Returns a dense layer of a head. It is always float32, since losses and scores come from it.
    Its rows may lie on a data axis."""
    init = nn.initializers.normal(config.init_scale)
    return Dense(features, use_bias=use_bias, kernel_init=init, dot_general=jax.lax.dot_general)


class LayerNorm(ReadParameters, nn.LayerNorm):
    """`flax.linen.LayerNorm`."""


class RMSNorm(ReadParameters, nn.RMSNorm):
    """`flax.linen.RMSNorm`."""


def layer_norm(config: TransformerConfig) -> LayerNorm:
    """Returns a layer norm, over the last axis."""
    return LayerNorm(epsilon=config.norm_eps, use_fast_variance=False)


def rms_norm(config: TransformerConfig) -> RMSNorm:
    """Returns an RMS norm, over the last axis."""
    return RMSNorm(epsilon=config.norm_eps)


def norm(config: TransformerConfig) -> nn.Module:
    """Returns a norm of the kind that the blocks have."""
    return rms_norm(config) if config.rms_norm else layer_norm(config)


class Attention(nn.Module):
    """Queries from this part's rows, keys and values from the context."""

    config: TransformerConfig

    def setup(self):
        config = self.config
        self.query = dense(config.query_features, config, use_bias=config.qkv_bias)
        self.key, self.value = (dense(config.kv_features, config, use_bias=config.qkv_bias) for _ in range(2))
        self.output = dense(config.features, config, use_bias=config.output_bias)
        if config.query_key_norm:
            self.query_norm, self.key_norm = rms_norm(config), rms_norm(config)

    def cache(self, x_BKD: jax.Array, weight_BK: jax.Array, place_BK: jax.Array) -> KVCache:
        """Returns keys and values of the rows to attend to, which stand at given places of their texts."""
        return self._cache(self._keys(x_BKD), self.value(x_BKD), weight_BK, place_BK)

    def keys_values(self, x_BTD: jax.Array) -> jax.Array:
        """Returns keys and values of rows side by side, [B, T, 2 G F], not rotated, and not divided into heads."""
        return jnp.concatenate([self._keys(x_BTD), self.value(x_BTD)], axis=-1)

    def cache_of(self, x_BKA: jax.Array, weight_BK: jax.Array, place_BK: jax.Array) -> KVCache:
        """Returns keys and values to attend to, given side by side, [B, K, 2 G F]."""
        keys, values = jnp.split(x_BKA, 2, axis=-1)
        return self._cache(keys, values, weight_BK, place_BK)

    def __call__(
        self,
        x_BTD: jax.Array,
        cache: KVCache,
        bias_of: Callable[[jax.Array], jax.Array],
        positions_T: jax.Array,
        place_BT: jax.Array,
        keys_B: jax.Array | None,
    ) -> jax.Array:
        """Returns the output for this part's rows, [B, T, D].

        Args:
          x_BTD: rows of this part, normalised in pre-norm.
          cache: keys and values of the context.
          bias_of: returns the bias of queries at given positions, see `attend_in_blocks`.
          positions_T: of the rows in the whole sequence.
          place_BT: of the rows in their texts, see `Context`.
          keys_B: for dropout; None where nothing is dropped.
        """
        q_BTA = self.query(x_BTD)
        if self.config.query_key_norm:
            q_BTA = self._of_each_head(self.query_norm, q_BTA)
        q_BHTF = self._heads(q_BTA, place_BT)
        with jax.named_scope("softmax"):
            shape = (*q_BHTF.shape[:3], cache.k_BGKF.shape[2])
            keep_BHTK = keep_factors(shape, self.config.attention_dropout, keys_B, site=0)
            out_BHTF = attend_in_blocks(q_BHTF, cache.k_BGKF, cache.v_BGKF, bias_of, positions_T, keep_BHTK)
        out_BTA = out_BHTF.swapaxes(1, 2).reshape(*x_BTD.shape[:2], -1)
        return dropout(self.output(out_BTA), self.config.dropout, keys_B, site=1)

    def _keys(self, x_BTD: jax.Array) -> jax.Array:
        k_BTA = self.key(x_BTD)
        return self._of_each_head(self.key_norm, k_BTA) if self.config.query_key_norm else k_BTA

    def _cache(self, k_BKA: jax.Array, v_BKA: jax.Array, weight_BK: jax.Array, place_BK: jax.Array) -> KVCache:
        return KVCache(self._heads(k_BKA, place_BK), self._heads(v_BKA), weight_BK)

    def _heads(self, y_BTA: jax.Array, place_BT: jax.Array | None = None) -> jax.Array:
        """Returns queries, keys or values divided into heads, [B, H or G, T, F]; rotated, if a place is given."""
        config = self.config
        y_BTHF = y_BTA.reshape(*y_BTA.shape[:2], -1, config.head_width)
        if config.rotary and place_BT is not None:
            y_BTHF = rotate(y_BTHF, place_BT, config.rotary)
        return y_BTHF.astype(config.compute_dtype).swapaxes(1, 2)

    def _of_each_head(self, norm: nn.Module, y_BTA: jax.Array) -> jax.Array:
        return norm(y_BTA.reshape(*y_BTA.shape[:2], -1, self.config.head_width)).reshape(y_BTA.shape)  # type: ignore[operator]


class Mlp(nn.Module):
    """Two dense layers with an activation between them, and with a third one beside it if the MLP is gated."""

    config: TransformerConfig

    def setup(self):
        config = self.config
        self.up = dense(config.mlp_features, config, use_bias=config.mlp_bias)
        self.down = dense(config.features, config, use_bias=config.mlp_bias)
        if config.gated:
            self.gate = dense(config.mlp_features, config, use_bias=config.mlp_bias)

    def __call__(self, x_BTD: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        """Returns the output for rows, [B, T, D]. Keys are for dropout, see `Attention`."""
        h_BTM = self.gate(x_BTD) if self.config.gated else self.up(x_BTD)
        with jax.named_scope("activation"):
            # The backward pass keeps the input alone: less memory, and no slower.
            h_BTM = jax.checkpoint(ACTIVATIONS[self.config.activation])(h_BTM)
        if self.config.gated:
            h_BTM = h_BTM * self.up(x_BTD)
        return dropout(self.down(h_BTM), self.config.dropout, keys_B, site=2)


class Block(nn.Module):
    """Exchange, attention, MLP. Rows of the residual stream are sent; in pre-norm the receiver normalises them.

    An exchange may send normalised rows instead, or keys and values, see `Exchange`.
    """

    config: TransformerConfig

    def setup(self):
        self.attention, self.mlp = Attention(self.config), Mlp(self.config)
        self.norm_1, self.norm_2 = norm(self.config), norm(self.config)
        if self.config.layer_scale:
            ones, shape = nn.initializers.ones, (self.config.features,)
            self.scale_1, self.scale_2 = (self.param(name, ones, shape, jnp.float32) for name in ("scale_1", "scale_2"))

    def __call__(self, x_BTD: jax.Array, exchange: Exchange, layout: Layout) -> tuple[jax.Array, KVCache, Any]:
        """Returns the rows after this block [B, T, D], the keys and values that they attended to, and what the exchange
        hands on to the next block, see `Context`."""
        shared = self._shared(x_BTD, exchange)
        with jax.named_scope("exchange"):
            context = exchange(shared, layout)
        if not isinstance(context, Context):
            raise InputError(f"{exchange} returned {type(context).__name__}; return a pj.Context, as self.share gives")
        expected = x_BTD.shape[1] + exchange.rows_received(layout.part_len, layout.num_parts)
        rows = context.x_BKD.shape[1]
        if rows != expected:
            raise InputError(
                f"{exchange} gave a context of {rows} rows, but by its rows_sent it should be {expected}; "
                "it sends another number of rows than it says, or a part has too few tokens for it"
            )
        if context.weight_BK.shape[1] != rows or context.last_K.shape not in ((rows,), context.weight_BK.shape):
            raise InputError(
                f"{exchange} gave {rows} rows, weights of shape {context.weight_BK.shape} and last positions of shape "
                f"{context.last_K.shape}; give a weight for each row of each text, and last positions of shape "
                f"({rows},) or that of the weights"
            )
        if context.place_BK is not None and context.place_BK.shape != context.weight_BK.shape:
            raise InputError(
                f"{exchange} gave places of shape {context.place_BK.shape}; give one for each row of each text, "
                f"{context.weight_BK.shape}"
            )
        cache = self._cache_of(context, exchange, layout)
        bias_of = partial(attention_bias, context.weight_BK, context.last_K, causal=self.config.causal)
        places = layout.real_before_BT
        x_BTD = self._update(x_BTD, cache, bias_of, layout.positions_T, places, layout.block_keys_B)
        return x_BTD, cache, context.memory

    def extend(
        self, x_B1D: jax.Array, place_B1: jax.Array, cache: KVCache, room: jax.Array
    ) -> tuple[jax.Array, KVCache]:
        """Runs one more row, which attends to `cache` and to itself. It takes the first of `room` free rows there.

        No other part and no mask is needed: all rows in the cache of a causal model are earlier.
        """
        weight_B1 = jnp.ones(x_B1D.shape[:2], cache.weight_BK.dtype)
        own = self.attention.cache(self._normed(x_B1D), weight_B1, place_B1)
        cache = cache.write(own, cache.weight_BK.shape[1] - room)

        def bias_of(_: jax.Array) -> jax.Array:
            return weight_bias(cache.weight_BK)

        return self._update(x_B1D, cache, bias_of, jnp.zeros(1, jnp.int32), place_B1, None), cache

    def _shared(self, x_BTD: jax.Array, exchange: Exchange) -> jax.Array:
        """Returns the rows, normalised rows, or keys and values that the exchange is called on."""
        if exchange.keys_values:
            return self.attention.keys_values(self._normed(x_BTD))
        return self._normed(x_BTD) if exchange.after_norm else x_BTD

    def _cache_of(self, context: Context, exchange: Exchange, layout: Layout) -> KVCache:
        """Returns keys and values of a context, which holds what was shared."""
        places = layout.places(context.last_K) if context.place_BK is None else context.place_BK
        if exchange.keys_values:
            return self.attention.cache_of(context.x_BKD, context.weight_BK, places)
        x_BKD = context.x_BKD if exchange.after_norm else self._normed(context.x_BKD)
        return self.attention.cache(x_BKD, context.weight_BK, places)

    def _normed(self, x_BKD: jax.Array) -> jax.Array:
        return self.norm_1(x_BKD) if self.config.norm_first else x_BKD

    def _update(
        self,
        x_BTD: jax.Array,
        cache: KVCache,
        bias_of: Callable[[jax.Array], jax.Array],
        positions_T: jax.Array,
        place_BT: jax.Array,
        keys_B: jax.Array | None,
    ) -> jax.Array:
        """Returns the rows after attention and MLP. Arguments as for `Attention`."""

        def attended(x_BTD: jax.Array) -> jax.Array:
            y_BTD = self.attention(x_BTD, cache, bias_of, positions_T, place_BT, keys_B)
            return y_BTD * self.scale_1[None, None] if self.config.layer_scale else y_BTD

        def through_mlp(x_BTD: jax.Array) -> jax.Array:
            y_BTD = self.mlp(x_BTD, keys_B)
            return y_BTD * self.scale_2[None, None] if self.config.layer_scale else y_BTD

        if self.config.norm_first:
            x_BTD = x_BTD + attended(self.norm_1(x_BTD))
            return x_BTD + through_mlp(self.norm_2(x_BTD))
        x_BTD = self.norm_1(x_BTD + attended(x_BTD))
        return self.norm_2(x_BTD + through_mlp(x_BTD))


class Stack(nn.Module):
    """The blocks, each with its own exchange."""

    config: TransformerConfig

    def setup(self):
        self.blocks = [Block(self.config, name=f"block_{i}") for i in range(self.config.num_layers)]

    def __call__(self, x_BTD: jax.Array, exchange: Exchanges, layout: Layout) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Returns the rows after the last block [B, T, D], and the keys and values of every block."""
        caches, memory = [], None
        for i, of_block in enumerate(per_block(exchange, self.config.num_layers)):
            x_BTD, cache, memory = self.blocks[i](x_BTD, of_block, replace(layout, block=i, memory=memory))
            caches.append(cache)
        return x_BTD, tuple(caches)

    def extend(
        self, x_B1D: jax.Array, place_B1: jax.Array, caches: tuple[KVCache, ...], room: jax.Array
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Runs one more row through all blocks, see `Block.extend`."""
        extended = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x_B1D, cache = block.extend(x_B1D, place_B1, cache, room)
            extended.append(cache)
        return x_B1D, tuple(extended)
