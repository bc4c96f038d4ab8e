"""One Transformer block for all models and all exchanges."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange, Exchanges, per_block
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.attention import KVCache, attend_in_blocks, attention_bias, weight_bias
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.dense import DOT_GENERALS, Dense
from prism_jax.layers.dropout import dropout, keep_factors
from prism_jax.parallel.partition import Layout


def dense(features: int, config: TransformerConfig, *, use_bias: bool = True) -> Dense:
    """Returns a dense layer of a block, from [..., D] to [..., features]."""
    init = nn.initializers.normal(config.init_scale)
    return Dense(features, use_bias=use_bias, kernel_init=init, dot_general=DOT_GENERALS[config.compute_dtype])


def head_dense(features: int, config: TransformerConfig) -> Dense:
    """Returns a dense layer of a head. It is always float32, since losses and scores come from it.
    Its rows may lie on a data axis."""
    return Dense(features, kernel_init=nn.initializers.normal(config.init_scale), dot_general=jax.lax.dot_general)


def layer_norm(config: TransformerConfig) -> nn.LayerNorm:
    """Returns a layer norm, over the last axis."""
    return nn.LayerNorm(epsilon=config.norm_eps, use_fast_variance=False)


class Attention(nn.Module):
    """Queries from this part's rows, keys and values from the context."""

    config: TransformerConfig

    def setup(self):
        D, bias = self.config.features, self.config.qkv_bias
        self.query, self.key, self.value = (dense(D, self.config, use_bias=bias) for _ in range(3))
        self.output = dense(D, self.config)

    def cache(self, x_BKD: jax.Array, weight_BK: jax.Array) -> KVCache:
        """Returns keys and values of the rows to attend to."""
        return KVCache(self._heads(self.key(x_BKD)), self._heads(self.value(x_BKD)), weight_BK)

    def keys_values(self, x_BTD: jax.Array) -> jax.Array:
        """Returns keys and values of rows side by side, [B, T, 2 D], before they are cut into heads."""
        return jnp.concatenate([self.key(x_BTD), self.value(x_BTD)], axis=-1)

    def cache_of(self, x_BKE: jax.Array, weight_BK: jax.Array) -> KVCache:
        """Returns keys and values to attend to, given side by side, [B, K, 2 D]."""
        k_BKD, v_BKD = jnp.split(x_BKE, 2, axis=-1)
        return KVCache(self._heads(k_BKD), self._heads(v_BKD), weight_BK)

    def __call__(
        self,
        x_BTD: jax.Array,
        cache: KVCache,
        bias_of: Callable[[jax.Array], jax.Array],
        positions_T: jax.Array,
        keys_B: jax.Array | None,
    ) -> jax.Array:
        """Returns the output for this part's rows, [B, T, D].

        Args:
          x_BTD: rows of this part, normalised in pre-norm.
          cache: keys and values of the context.
          bias_of: returns the bias of queries at given positions, see `attend_in_blocks`.
          positions_T: of the rows in the whole sequence.
          keys_B: for dropout; None where nothing is dropped.
        """
        q_BHTF = self._heads(self.query(x_BTD))
        with jax.named_scope("softmax"):
            shape = (*q_BHTF.shape[:3], cache.k_BHKF.shape[2])
            keep_BHTK = keep_factors(shape, self.config.attention_dropout, keys_B, site=0)
            out_BHTF = attend_in_blocks(q_BHTF, cache.k_BHKF, cache.v_BHKF, bias_of, positions_T, keep_BHTK)
        out_BTD = out_BHTF.swapaxes(1, 2).reshape(x_BTD.shape)
        return dropout(self.output(out_BTD), self.config.dropout, keys_B, site=1)

    def _heads(self, y_BTD: jax.Array) -> jax.Array:
        y_BTD = y_BTD.astype(self.config.compute_dtype)
        return y_BTD.reshape(*y_BTD.shape[:2], self.config.num_heads, -1).swapaxes(1, 2)


class Mlp(nn.Module):
    """Two dense layers with an activation between them."""

    config: TransformerConfig

    def setup(self):
        self.up = dense(self.config.mlp_features, self.config)
        self.down = dense(self.config.features, self.config)

    def __call__(self, x_BTD: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        """Returns the output for rows, [B, T, D]. Keys are for dropout, see `Attention`."""
        h_BTM = self.up(x_BTD)
        with jax.named_scope("activation"):
            # The backward pass keeps the input alone: less memory, and no slower.
            h_BTM = jax.checkpoint(ACTIVATIONS[self.config.activation])(h_BTM)
        return dropout(self.down(h_BTM), self.config.dropout, keys_B, site=2)


class Block(nn.Module):
    """Exchange, attention, MLP. Rows of the residual stream are sent; in pre-norm the receiver normalises them.

    An exchange may send normalised rows instead, or keys and values, see `Exchange`.
    """

    config: TransformerConfig

    def setup(self):
        self.attention, self.mlp = Attention(self.config), Mlp(self.config)
        self.norm_1, self.norm_2 = layer_norm(self.config), layer_norm(self.config)

    def __call__(self, x_BTD: jax.Array, exchange: Exchange, layout: Layout) -> tuple[jax.Array, KVCache]:
        """Returns the rows after this block [B, T, D], and the keys and values that they attended to."""
        shared = self._shared(x_BTD, exchange)
        with jax.named_scope("exchange"):
            context = exchange(shared, layout)
        expected = x_BTD.shape[1] + (layout.num_parts - 1) * exchange.rows_sent(layout.part_len)
        rows = context.x_BKD.shape[1]
        if rows != expected:
            raise InputError(
                f"{exchange} gave a context of {rows} rows, but by its rows_sent it should be {expected}; "
                "it sends another number of rows than it says, or a part has too few tokens for it"
            )
        if context.weight_BK.shape[1] != rows or context.last_K.shape != (rows,):
            raise InputError(
                f"{exchange} gave {rows} rows, {context.weight_BK.shape[1]} weights and {context.last_K.shape[0]} "
                "last positions; give one of each for every row"
            )
        cache = self._cache_of(context, exchange)
        bias_of = partial(attention_bias, context.weight_BK, context.last_K, causal=self.config.causal)
        return self._update(x_BTD, cache, bias_of, layout.positions_T, layout.block_keys_B), cache

    def extend(self, x_B1D: jax.Array, cache: KVCache, room: jax.Array) -> tuple[jax.Array, KVCache]:
        """Runs one more row, which attends to `cache` and to itself. It takes the first of `room` free rows there.

        No other part and no mask is needed: all rows in the cache of a causal model are earlier.
        """
        weight_B1 = jnp.ones(x_B1D.shape[:2], cache.weight_BK.dtype)
        cache = cache.write(self._cache(x_B1D, weight_B1), cache.weight_BK.shape[1] - room)
        return self._update(x_B1D, cache, lambda _: weight_bias(cache.weight_BK), jnp.zeros(1, jnp.int32), None), cache

    def _shared(self, x_BTD, exchange):
        """Returns what a part shares of its rows."""
        if exchange.keys_values:
            return self.attention.keys_values(self._normed(x_BTD))
        return self._normed(x_BTD) if exchange.after_norm else x_BTD

    def _cache_of(self, context, exchange):
        """Returns keys and values of a context, which holds what was shared."""
        if exchange.keys_values:
            return self.attention.cache_of(context.x_BKD, context.weight_BK)
        cache = self.attention.cache if exchange.after_norm else self._cache
        return cache(context.x_BKD, context.weight_BK)

    def _normed(self, x_BKD):
        return self.norm_1(x_BKD) if self.config.norm_first else x_BKD

    def _cache(self, x_BKD, weight_BK):
        return self.attention.cache(self._normed(x_BKD), weight_BK)

    def _update(self, x_BTD, cache, bias_of, positions_T, keys_B):
        if self.config.norm_first:
            x_BTD = x_BTD + self.attention(self.norm_1(x_BTD), cache, bias_of, positions_T, keys_B)
            return x_BTD + self.mlp(self.norm_2(x_BTD), keys_B)
        x_BTD = self.norm_1(x_BTD + self.attention(x_BTD, cache, bias_of, positions_T, keys_B))
        return self.norm_2(x_BTD + self.mlp(x_BTD, keys_B))


class Stack(nn.Module):
    """The blocks, each with its own exchange."""

    config: TransformerConfig

    def setup(self):
        self.blocks = [Block(self.config, name=f"block_{i}") for i in range(self.config.num_layers)]

    def __call__(self, x_BTD: jax.Array, exchange: Exchanges, layout: Layout) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Returns the rows after the last block [B, T, D], and the keys and values of every block."""
        caches = []
        for i, of_block in enumerate(per_block(exchange, self.config.num_layers)):
            x_BTD, cache = self.blocks[i](x_BTD, of_block, replace(layout, block=i))
            caches.append(cache)
        return x_BTD, tuple(caches)

    def extend(
        self, x_B1D: jax.Array, caches: tuple[KVCache, ...], room: jax.Array
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Runs one more row through all blocks, see `Block.extend`."""
        extended = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x_B1D, cache = block.extend(x_B1D, cache, room)
            extended.append(cache)
        return x_B1D, tuple(extended)
