"""Attention and its one additive bias, against brute force."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closeness import assert_close

from prism_jax.layers import attention
from prism_jax.layers.attention import attend, attend_in_blocks, attention_bias

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def textbook(q, k, v, seen):
    """softmax(q k^T / sqrt(F)) v in float64, rows that are not seen left out."""
    scores = np.where(seen, np.einsum("BHTF,BHKF->BHTK", q, k, dtype=np.float64) / np.sqrt(q.shape[-1]), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("BHTK,BHKF->BHTF", weights / weights.sum(-1, keepdims=True), v)


def test_log_count_equals_attention_to_repeated_rows():
    q, k, v = random(2, 3, 5, 8), random(2, 3, 7, 8, seed=1), random(2, 3, 7, 8, seed=2)
    count = np.array([1, 4, 0, 2, 9, 1, 30])
    bias = attention_bias(jnp.float32(np.stack([count, count])), jnp.arange(7), jnp.arange(5), causal=False)
    repeated = np.repeat(np.arange(7), count)
    assert_close(attend(q, k, v, bias), textbook(q, k[:, :, repeated], v[:, :, repeated], True))


def test_causal_attention_with_counts_equals_repeated_rows():
    q, k, v = random(1, 2, 4, 8), random(1, 2, 6, 8, seed=1), random(1, 2, 6, 8, seed=2)
    count, last, positions = np.array([1, 1, 1, 1, 5, 3]), np.array([5, 6, 7, 8, 4, 11]), np.array([5, 6, 7, 8])
    bias = attention_bias(jnp.float32(count[None]), jnp.asarray(last), jnp.asarray(positions), causal=True)
    repeated = np.repeat(np.arange(6), count)
    seen = last[repeated][None, :] <= positions[:, None]
    assert_close(attend(q, k, v, bias), textbook(q, k[:, :, repeated], v[:, :, repeated], seen))


def test_the_partition_aware_mask_is_the_drawing_in_the_docstring():
    drawings = {
        0: [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]],
        1: [[1, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]],
    }
    own = {0: [0, 1, 2], 1: [3, 4, 5]}
    for part, drawing in drawings.items():
        last = jnp.array([*own[part], own[1 - part][-1]])
        bias = attention_bias(jnp.array([[1.0, 1.0, 1.0, 3.0]]), last, jnp.array(own[part]), causal=True)
        assert ((np.asarray(bias)[0, 0] > -1e8).astype(int) == drawing).all()
        for row in drawing:
            assert " ".join(map(str, row[:3])) + f"  {row[3]}" in attention_bias.__doc__


def test_a_query_that_sees_nothing_stays_finite():
    q, k, v = random(1, 1, 3, 4), random(1, 1, 5, 4), random(1, 1, 5, 4)
    bias = attention_bias(jnp.zeros((1, 5)), jnp.arange(5), jnp.arange(3), causal=False)
    assert np.isfinite(attend(q, k, v, bias)).all()
    assert np.isfinite(jax.grad(lambda k: attend(q, k, v, bias).sum())(k)).all()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_gradient_is_that_of_the_textbook_softmax(scale):
    """In float64, by hand. Softmax makes of a score's rounding, which grows with the score,
    a relative error of the weights: so does the tolerance."""
    q, k, v = scale * random(1, 2, 3, 4), random(1, 2, 5, 4, seed=1), random(1, 2, 5, 4, seed=2)
    scores = np.einsum("BHTF,BHKF->BHTK", q, k, dtype=np.float64) / 2
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    d_out = 2 * np.einsum("BHTK,BHKF->BHTF", weights, v)
    d_weights = np.einsum("BHTF,BHKF->BHTK", d_out, v)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) / 2
    expected = (
        np.einsum("BHTK,BHKF->BHTF", d_scores, k),
        np.einsum("BHTK,BHTF->BHKF", d_scores, q),
        np.einsum("BHTK,BHTF->BHKF", weights, d_out),
    )
    bias = jnp.zeros((1, 1, 1, 5))
    gradients = jax.grad(lambda *args: (attend(*args, bias) ** 2).sum(), (0, 1, 2))(q, k, v)
    tolerance = 1e-5 * max(1, np.abs(scores).max())
    jax.tree.map(partial(assert_close, tolerance=tolerance), gradients, expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 4, 10])
def test_block_by_block_it_is_the_same(rows, causal, monkeypatch):
    """Values and gradients, with blocks of 1, 3, 4 and all 10 queries, dropout and all;
    no scores but a block's are ever made."""
    B, H, T, K, F = 2, 3, 10, 14, 4
    q, k, v, keep = (random(B, H, *shape, seed=i) for i, shape in enumerate(((T, F), (K, F), (K, F), (T, K))))
    count, last = jnp.asarray(np.random.default_rng(0).integers(0, 4, (B, K)), jnp.float32), jnp.arange(K)
    bias_of, positions = partial(attention_bias, count, last, causal=causal), jnp.arange(T) + 2
    monkeypatch.setattr(attention, "SCORES_BYTES", 4 * B * H * K * rows)

    def blocks(q, k, v):
        return (attend_in_blocks(q, k, v, bias_of, positions, keep) ** 2).sum()

    def whole(q, k, v):
        return (attend(q, k, v, bias_of(positions), keep) ** 2).sum()

    ours, reference = (jax.jit(jax.value_and_grad(one, (0, 1, 2)))(q, k, v) for one in (blocks, whole))
    jax.tree.map(assert_close, ours, reference)

    def without_dropout(q, k, v):
        return attend_in_blocks(q, k, v, bias_of, positions).sum()

    program = str(jax.make_jaxpr(jax.grad(without_dropout, (0, 1, 2)))(q, k, v))
    assert (f"f32[{B},{H},{T},{K}]" in program) == (rows == T)
    assert f"f32[{B},{H},{min(rows, T)},{K}]" in program
