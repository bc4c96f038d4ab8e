"""Sigma points, against the segments' own moments and the exact exchange."""

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.tiny import hidden_states, tiny_batch, tiny_bert

import prism_jax as pj
from prism_jax import cost
from prism_jax.exchange import SigmaPoints
from prism_jax.testing import check_exchange

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def test_segments_of_one_and_two_tokens_are_exact():
    """Two tokens lie at their mean plus and minus half of their difference. Of the 3 parts of 7 tokens, each has a
    segment of one, and the last one a place too many."""
    model, params = tiny_bert()
    batch, run = tiny_batch(20, padded=True), pj.on_one_device(3)
    rows = hidden_states(model, params, batch, SigmaPoints(4), run)
    assert_close(rows, hidden_states(model, params, batch, pj.AllGather(), run))


def test_rows_have_the_mean_of_the_tokens_and_their_variance_along_the_principal_direction():
    rng = np.random.default_rng(0)
    spread = np.float32(2.0) ** -np.arange(8, dtype=np.float32)  # one direction stands out
    x_BLSD = 3 + spread * rng.normal(size=(2, 3, 6, 8)).astype(np.float32)
    real_BLS = rng.random((2, 3, 6)) < 0.7
    real_BLS[0, 0], real_BLS[0, 1] = False, np.arange(6) == 2
    real_BLS[1, :, :3] = True
    twice = [np.concatenate([x, x], axis=1) for x in (x_BLSD, real_BLS)]
    plus, minus = np.split(np.asarray(jax.jit(SigmaPoints(3).pool)(*twice)), 2, axis=1)
    for at in np.ndindex(2, 3):
        tokens = x_BLSD[at][real_BLS[at]].astype(float)
        mean = tokens.mean(0) if len(tokens) else np.zeros(8)
        assert_close((plus[at] + minus[at]) / 2, mean)
        largest = np.linalg.svd(tokens - mean)[1].max(initial=0) ** 2 / max(len(tokens), 1)
        variance = ((plus[at] - minus[at]) ** 2).sum() / 4
        assert 0.98 * largest <= variance + 1e-9 <= 1.001 * largest + 1e-6


def test_the_gradient_is_finite_where_tokens_are_equal_or_padding():
    def loss(x_BLSD, real_BLS):
        return (SigmaPoints(2).pool(x_BLSD, real_BLS) ** 3).sum()

    x_BLSD = np.ones((1, 4, 3, 5), np.float32)
    real_BLS = np.ones((1, 4, 3), bool)
    real_BLS[:, 1::2] = False
    assert np.isfinite(np.asarray(jax.jit(jax.grad(loss))(x_BLSD, real_BLS))).all()


@pytest.mark.slow
def test_it_is_an_exchange_like_all_others():
    check_exchange(SigmaPoints(2))


def test_costs_by_formula_are_those_of_the_program():
    model, _ = tiny_bert()
    stack, exchange, run = model.config.stack, SigmaPoints(2), pj.on_mesh(3)
    formula, compiled = (
        cost.formula(stack, exchange, 3, 20),
        cost.compiled_from_shapes(model, exchange, run, num_tokens=20),
    )
    assert (formula.flops, formula.bytes_sent) == (compiled.flops, compiled.bytes_sent)
    assert formula == cost.formula(stack, pj.SegmentMeans(4), 3, 20)
