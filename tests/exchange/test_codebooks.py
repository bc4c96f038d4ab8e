"""Rows as codes of codebooks, against brute force and the compiled program."""

import re

import jax
import numpy as np
import pytest
from helpers.cases import one_is_quick
from helpers.closeness import assert_close
from helpers.tiny import stack_config, tiny_batch

import prism_jax as pj
from prism_jax import cost
from prism_jax.errors import InputError
from prism_jax.exchange import Codebooks, GatedMeans, KeysValues, arrays
from prism_jax.exchange.base import all_gather
from prism_jax.exchange.codebooks import Codes
from prism_jax.exchange.text import parse
from prism_jax.exchange.wire import FLOAT32
from prism_jax.models.bert import BertConfig, BertModel
from prism_jax.parallel.partition import PARTS
from prism_jax.programs import lower
from prism_jax.testing import check_exchange, random_params
from prism_jax.trees import unflatten

pytestmark = pytest.mark.usefixtures("quick_to_compile")

BITS = (2, 4, 8)


def model():
    return BertModel(BertConfig(stack_config(), vocab_size=100, num_positions=64))


def params_with(exchange, seed=1):
    """Random parameters, with random centroids."""
    stack, rng = model().config.stack, np.random.default_rng(seed)
    stated = arrays.stated(exchange, stack.num_layers, stack.width_of)
    drawn = {path: rng.normal(size=spec.shape).astype(np.float32) for path, spec in stated.items()}
    return {**random_params(model()), **unflatten(drawn)}


def hidden(params, exchange, run):
    parts = run.split(tiny_batch(12, padded=True))
    program = jax.jit(lambda params, parts: pj.forward(model(), params, parts, exchange, run)[0])
    return np.asarray(program(run.replicate(params), parts))


@pytest.mark.parametrize("bits", BITS)
def test_a_row_arrives_as_the_nearest_centroids(bits):
    rng = np.random.default_rng(0)
    centroids_XJE = rng.normal(size=(8, 2**bits, 4)).astype(np.float32)
    z_BLD, wire = rng.normal(size=(2, 5, 32)).astype(np.float32), Codes(8, bits, centroids_XJE)
    distance_BLXJ = ((z_BLD.reshape(2, 5, 8, 1, 4) - centroids_XJE) ** 2).sum(-1)
    nearest_BLX = distance_BLXJ.argmin(-1)
    expected = centroids_XJE[np.arange(8), nearest_BLX].reshape(2, 5, 32)
    sent = wire.encode(z_BLD)
    assert sent.dtype == np.uint8
    assert sent.nbytes == 2 * 5 * wire.row_bytes(32) == 2 * 5 * 8 * bits // 8
    np.testing.assert_array_equal(wire.decode(sent, 32), expected)


def test_rows_that_are_centroids_arrive_exactly():
    """The exact limit: as many centroids as there are rows."""
    z_BLD = np.random.default_rng(0).normal(size=(1, 16, 32)).astype(np.float32)
    wire = Codes(8, 4, z_BLD[0].reshape(16, 8, 4).swapaxes(0, 1))
    np.testing.assert_array_equal(wire.decode(wire.encode(z_BLD), 32), z_BLD)


@pytest.mark.parametrize("bits", one_is_quick(4, BITS))
@pytest.mark.parametrize("of", one_is_quick(pj.AllGather(), [pj.AllGather(), pj.SegmentMeans(2)]), ids=str)
def test_the_compiled_program_sends_codes_in_one_collective_a_block(of, bits):
    exchange, stack = Codebooks(of, 8, bits), model().config.stack
    program = lower(model(), exchange, pj.on_mesh(3), 2, 12).compile()
    collectives = re.findall(r"= \(?(\w+)\[[^=]* all-gather(?:-start)?\([^\n]*exchange", program.as_text())
    assert collectives == ["u8"] * stack.num_layers
    formula = cost.formula(stack, exchange, 3, 12)
    assert cost.compiled(program, 2).bytes_sent == formula.bytes_sent
    assert formula.bytes_sent == stack.num_layers * 2 * of.rows_sent(4) * bits
    assert cost.compiled(program, 2).flops == formula.flops


@pytest.mark.slow
def test_it_is_an_exchange_like_all_others():
    """Causality, padding and bytes, of all that stands inside too; three devices as one; own rows are never rounded."""
    exchange = Codebooks(pj.AllGather(), 8, 4)
    check_exchange(Codebooks(KeysValues(GatedMeans(2)), 8, 4))
    params = params_with(exchange)
    assert_close(hidden(params, exchange, pj.on_mesh(3)), hidden(params, exchange, pj.on_one_device(3)))
    alone = hidden(params, exchange, pj.on_one_device(1))
    assert_close(alone, hidden(params, pj.WholeSequence(), pj.on_one_device(1)))
    assert np.abs(hidden(params, exchange, pj.on_one_device(3)) - alone).max() > 1e-2


def test_the_gradient_is_that_of_rows_in_float32():
    """Straight-through; the centroids have none."""
    rng = np.random.default_rng(0)
    z_PBLD, weight = rng.normal(size=(3, 2, 5, 32)).astype(np.float32), rng.normal(size=(3, 2, 3, 5, 32))
    centroids_XJE = rng.normal(size=(8, 16, 4)).astype(np.float32)

    def weighed(z_PBLD, centroids_XJE, coded):
        wire = Codes(8, 4, centroids_XJE) if coded else FLOAT32
        arrived = jax.vmap(lambda z_BLD: all_gather(z_BLD, wire), axis_name=PARTS)(z_PBLD)
        return (arrived * weight.astype(np.float32)).sum()

    ours, of_centroids = jax.grad(weighed, (0, 1))(z_PBLD, centroids_XJE, True)
    assert_close(ours, jax.grad(weighed)(z_PBLD, centroids_XJE, False))
    assert (np.asarray(of_centroids) == 0).all()


def test_it_reads_as_it_is_written():
    exchange = Codebooks(pj.SegmentMeans(4), 8, 4)
    assert parse(str(exchange)) == exchange == parse("codebooks:8:4:segment_means:4")


def test_arrays_that_do_not_fit_are_refused():
    exchange, other = Codebooks(pj.AllGather(), 8, 4), Codebooks(pj.AllGather(), 16, 4)
    params, run = params_with(exchange), pj.on_one_device(3)
    with pytest.raises(InputError, match="the weights lack the arrays of codebooks:16:4:all_gather"):
        hidden(params, other, run)
    params["exchange"][other.arrays_name] = params["exchange"][exchange.arrays_name]
    with pytest.raises(InputError, match=r"needs centroids of shape \(16, 16, 2\), but the weights have \(8, 16, 4\)"):
        hidden(params, other, run)
    with pytest.raises(InputError, match="7 groups of 8 bits for rows of 32 features"):
        hidden(params, Codebooks(pj.AllGather(), 7, 8), run)
