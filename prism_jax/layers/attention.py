"""Attention with one additive bias, which is the scaling-aware softmax,
the padding mask and the causal mask at once."""

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp

SCORES_BYTES = 2**28
"""Most bytes for the scores of one part at once. Above it, attention runs on blocks of queries in turn."""

HIDDEN = -1e9
"""Added to the logit of a hidden row. Finite: with -inf, rows that see nothing would be NaN."""


@flax.struct.dataclass
class KVCache:
    """Keys and values of the context of a block. Generation keeps them as its cache.

    Attributes:
      k_BGKF: keys, G heads.
      v_BGKF: values.
      weight_BK: float32, weight of a row in the softmax, see `Context`; 0 hides the row.
    """

    k_BGKF: jax.Array
    v_BGKF: jax.Array
    weight_BK: jax.Array

    def grow(self, rows: int) -> "KVCache":
        """Returns the cache with room for more rows at the end. They are hidden until they are written."""

        def padded(x, axis):
            return jnp.pad(x, [(0, rows * (i == axis)) for i in range(x.ndim)])

        return KVCache(padded(self.k_BGKF, 2), padded(self.v_BGKF, 2), padded(self.weight_BK, 1))

    def write(self, rows: "KVCache", slot: jax.Array) -> "KVCache":
        """Returns the cache with `rows` in place of its rows from `slot` on."""
        put = jax.lax.dynamic_update_slice_in_dim
        return KVCache(
            put(self.k_BGKF, rows.k_BGKF, slot, axis=2),
            put(self.v_BGKF, rows.v_BGKF, slot, axis=2),
            put(self.weight_BK, rows.weight_BK, slot, axis=1),
        )


def weight_bias(weight_BK: jax.Array) -> jax.Array:
    """Returns `log(weight)`, or HIDDEN where the weight is 0, [B, 1, 1, K], float32."""
    return jnp.where(weight_BK > 0, jnp.log(jnp.where(weight_BK > 0, weight_BK, 1)), HIDDEN)[:, None, None, :]


def attention_bias(weight_BK: jax.Array, last: jax.Array, positions_T: jax.Array, *, causal: bool) -> jax.Array:
    """Returns the bias of the attention logits: `log(weight)`, or HIDDEN where a row must not be seen.

    A row that stands for `g` equal tokens gets the weight of `g` rows: `softmax(q k + log g)` (PRISM's scaling-aware
    softmax; the proportional attention of ToMe, arXiv 2210.09461). A row of weight 0 is padding. With `causal`, a row
    is seen by the queries at or after the last token that it stands for. Own tokens then get the lower triangle, means
    of an earlier part are visible and means of a later part hidden: PRISM's partition-aware causal mask. For 6 tokens
    in 2 parts with 1 mean each, visible = 1:

        part 0: own 0 1 2, mean of part 1      part 1: own 3 4 5, mean of part 0
                    1 0 0  0                               1 0 0  1
                    1 1 0  0                               1 1 0  1
                    1 1 1  0                               1 1 1  1

    Args:
      weight_BK: weight of each row, see `Context`.
      last: position of the last token that each row stands for, [K], or [B, K] where it differs between texts.
      positions_T: of the queries.
      causal: whether later rows are hidden.

    Returns:
      [B, 1, 1, K], or with `causal` [B, 1, T, K], float32.
    """
    bias_B11K = weight_bias(weight_BK)
    if not causal:
        return bias_B11K
    seen_BTK = jnp.atleast_2d(last)[:, None] <= positions_T[None, :, None]
    return jnp.where(seen_BTK[:, None], bias_B11K, HIDDEN)


def attend(
    q_BHTF: jax.Array, k_BGKF: jax.Array, v_BGKF: jax.Array, bias_BHTK: jax.Array, keep_BHTK: jax.Array | None = None
) -> jax.Array:
    """Returns `softmax(q k^T / sqrt(F) + bias) v`, [B, H, T, F], float32.

    Heads stand in front, and the division by the sum comes after the product with `v`: on a CPU several times faster
    than the textbook order. Scores are float32 for inputs of any type.

    Args:
      q_BHTF: queries.
      k_BGKF: keys. G heads, where G divides H; each serves H / G heads of queries that stand next to each other.
      v_BGKF: values.
      bias_BHTK: added to the scores; broadcast over axes of size 1. One for all heads.
      keep_BHTK: dropout of the attention weights, as factors 0 or 1 / (1 - rate).
    """
    (B, H, T, F), G = q_BHTF.shape, k_BGKF.shape[1]
    if H != G:
        q, bias = q_BHTF.reshape(B, G, H // G, T, F), bias_BHTK[:, :, None]
        keep = None if keep_BHTK is None else keep_BHTK.reshape(B, G, H // G, T, -1)
        return _attend(q, k_BGKF, v_BGKF, bias, keep).reshape(B, H, T, F)
    return _attend(q_BHTF, k_BGKF, v_BGKF, bias_BHTK, keep_BHTK)


def _attend(q: jax.Array, k_BGKF: jax.Array, v_BGKF: jax.Array, bias: jax.Array, keep: jax.Array | None) -> jax.Array:
    """Returns `attend` for queries of [B, G, T, F], or of [B, G, H / G, T, F] where heads share keys."""
    F = q.shape[-1]
    scores = jnp.einsum("BG...F,BGKF->BG...K", q * F**-0.5, k_BGKF, preferred_element_type=jnp.float32) + bias
    top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weight = jnp.exp(scores - top)
    total = weight.sum(-1, keepdims=True)
    if keep is not None:
        weight = weight * keep
    out = jnp.einsum("BG...K,BGKF->BG...F", weight.astype(v_BGKF.dtype), v_BGKF, preferred_element_type=jnp.float32)
    return out / total


def attend_in_blocks(
    q_BHTF: jax.Array,
    k_BGKF: jax.Array,
    v_BGKF: jax.Array,
    bias_of: Callable[[jax.Array], jax.Array],
    positions_T: jax.Array,
    keep_BHTK: jax.Array | None = None,
) -> jax.Array:
    """Returns `attend`, with blocks of queries in turn if all scores at once would take more than `SCORES_BYTES`.

    A block has all keys, so the answer is the same. Memory then grows with K, not with T K, unless dropout's
    `keep_BHTK` is given. The gradient computes the scores of a block again instead of keeping them.

    Args:
      q_BHTF: queries.
      k_BGKF: keys, see `attend`.
      v_BGKF: values.
      bias_of: returns the bias [B, 1, 1 or T, K] of queries at given positions.
      positions_T: of the queries in the whole sequence.
      keep_BHTK: dropout of all queries, as in `attend`.
    """
    (B, H, T, _), K = q_BHTF.shape, k_BGKF.shape[2]
    blocks = -(-T // max(1, SCORES_BYTES // (4 * B * H * K)))
    if blocks == 1:
        return attend(q_BHTF, k_BGKF, v_BGKF, bias_of(positions_T), keep_BHTK)
    rows = -(-T // blocks)
    whole = T - T % rows  # queries in whole blocks; the others come last

    def cut(x, axis):
        """Returns [..., T, ...] as [blocks, ..., rows, ...], without the last rows that fill no block."""
        x = jax.lax.slice_in_dim(x, 0, whole, axis=axis)
        return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, rows, *x.shape[axis + 1 :]), axis, 0)

    @jax.checkpoint
    def one_block(block):
        q_BHUF, positions_U, keep_BHUK = block
        return attend(q_BHUF, k_BGKF, v_BGKF, bias_of(positions_U), keep_BHUK)

    keep = None if keep_BHTK is None else cut(keep_BHTK, 2)
    out = jnp.moveaxis(jax.lax.map(one_block, (cut(q_BHTF, 2), cut(positions_T, 0), keep)), 0, 2)
    out = out.reshape(B, H, whole, -1)
    if whole == T:
        return out
    keep = None if keep_BHTK is None else keep_BHTK[:, :, whole:]
    rest = one_block((q_BHTF[:, :, whole:], positions_T[whole:], keep))
    return jnp.concatenate([out, rest], axis=2)
