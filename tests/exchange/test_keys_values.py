"""Keys and values in place of rows. A dense layer of a mean is the mean of the dense layer, so means of keys and values
equal those of the rows in front of it."""

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.tiny import hidden_states, prompts_of, stack_config, tiny_batch, tiny_bert, tiny_gpt2

import prism_jax as pj
from prism_jax import cost
from prism_jax.exchange import Codebooks, KeysValues, MeansAfterNorm
from prism_jax.exchange.text import parse

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.mark.parametrize("norm_first", [False, True])
def test_means_of_keys_and_values_are_those_of_the_rows_in_front(runner, norm_first):
    model, params = tiny_bert(norm_first=norm_first, causal=norm_first)
    batch = tiny_batch(19, padded=True)
    expected = hidden_states(model, params, batch, MeansAfterNorm(2), pj.on_one_device(3))
    assert_close(hidden_states(model, params, batch, KeysValues(pj.SegmentMeans(2)), pj.on_mesh(3)), expected)


def test_all_keys_and_values_equal_one_device():
    for norm_first in (False, True):
        model, params = tiny_bert(norm_first=norm_first, causal=norm_first)
        batch = tiny_batch(19, padded=True)
        expected = hidden_states(model, params, batch, pj.WholeSequence(), pj.on_one_device(1))
        assert_close(hidden_states(model, params, batch, KeysValues(pj.AllGather()), pj.on_mesh(3)), expected)
        rounded = hidden_states(model, params, batch, KeysValues(pj.AllGather(wire=pj.WIRES["int2"])), pj.on_mesh(3))
        assert np.abs(rounded - expected).max() > 1e-2


@pytest.mark.parametrize("exchange", ["keys_values:segment_means:2", "keys_values:all_gather:int4"])
def test_the_compiled_program_computes_and_sends_what_the_formula_says(exchange):
    """Keys and values of own rows only: as isolated parts, but for the scores."""
    model, shared = tiny_bert()[0], parse(exchange)
    compiled, formula = (
        cost.compiled_from_shapes(model, shared, pj.on_mesh(3), 18),
        cost.formula(model.config.stack, shared, 3, 18),
    )
    assert (compiled.flops, compiled.bytes_sent, compiled.collectives) == (formula.flops, formula.bytes_sent, 2)
    isolated = cost.formula(model.config.stack, pj.IsolatedParts(), 3, 18)
    assert formula.flops - isolated.flops == 2 * 4 * 6 * (2 * shared.rows_sent(6)) * 32
    row = {"keys_values:segment_means:2": 4 * 64, "keys_values:all_gather:int4": 64 // 2 + 4}[exchange]
    assert formula.bytes_sent == 2 * 2 * shared.rows_sent(6) * row


@pytest.mark.slow
def test_generation_goes_on_from_the_keys_and_values_that_were_sent():
    model, params = tiny_gpt2()
    prompts = prompts_of(12, 9)
    exact = pj.Generator(model, params, pj.WholeSequence(), pj.on_one_device(1))(prompts, 6)
    assert pj.Generator(model, params, KeysValues(pj.AllGather()), pj.on_one_device(3))(prompts, 6) == exact
    means = pj.Generator(model, params, MeansAfterNorm(2), pj.on_one_device(3)).logits(prompts, np.array([[1, 2]] * 2))
    shared = pj.Generator(model, params, KeysValues(pj.SegmentMeans(2)), pj.on_one_device(3))
    assert_close(shared.logits(prompts, np.array([[1, 2]] * 2)), means)


@pytest.mark.slow
def test_the_gradient_is_that_of_one_device():
    model, params = tiny_bert()
    batch = tiny_batch(12, padded=False)

    def gradient(exchange, run):
        parts = run.split(batch)
        loss = jax.jit(jax.grad(lambda params: (pj.forward(model, params, parts, exchange, run)[0] ** 3).sum()))
        return jax.flatten_util.ravel_pytree(loss(params))[0]

    assert_close(
        gradient(KeysValues(pj.AllGather()), pj.on_one_device(3)), gradient(pj.WholeSequence(), pj.on_one_device(1))
    )


def test_it_reads_as_it_is_written_whatever_stands_in_front():
    for exchange in (
        KeysValues(pj.SegmentMeans(4, wire=pj.WIRES["int8"])),
        Codebooks(KeysValues(pj.AllGather()), 8, 4),
    ):
        assert parse(str(exchange)) == exchange
        assert exchange.keys_values
        assert stack_config().width_of(exchange) == 64
