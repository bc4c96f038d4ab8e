"""Rows that are sent as their change since the block before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.tiny import hidden_states, tiny_batch, tiny_bert
from jax.flatten_util import ravel_pytree

import prism_jax as pj
from prism_jax.errors import InputError
from prism_jax.exchange.text import parse
from prism_jax.testing import check_exchange

pytestmark = pytest.mark.usefixtures("quick_to_compile")

P, T, D = 3, 4, 128
NUM_BLOCKS = 6


def received(text: str, x_IPTD: np.ndarray) -> np.ndarray:
    """The rows of the others that each part gets before each of the blocks, [I, P, (P-1) T, D]."""
    exchange = parse(text)

    def part(params, tokens, layout):
        memory, others = None, []
        for i in range(NUM_BLOCKS):
            context = exchange(tokens["x"][..., i], layout.replace(block=i, memory=memory))
            memory = context.memory
            others.append(context.x_BKD[:, T:])
        return jnp.stack(others, -1)

    run = pj.on_one_device(P)
    x = np.moveaxis(x_IPTD, 0, -1).reshape(1, P * T, D, NUM_BLOCKS)
    rows = jax.jit(lambda parts: run.each(part, {}, parts))(run.split({"x": x}))
    return np.moveaxis(np.asarray(rows).reshape(P, (P - 1) * T, D, NUM_BLOCKS), -1, 0)


def stream(change: float) -> np.ndarray:
    """Rows [I, P, T, D] that change by this share of their size from block to block."""
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(NUM_BLOCKS, P, T, D))
    steps[1:] *= change
    return np.cumsum(steps, 0).astype(np.float32)


def of_others(x_IPTD: np.ndarray) -> np.ndarray:
    cyclic = [np.concatenate([x_IPTD[:, (part + k) % P] for k in range(1, P)], axis=1) for part in range(P)]
    return np.stack(cyclic, 1)


@pytest.mark.parametrize("wire", ["int2", "int4", "int8", "bfloat16"])
def test_the_receivers_sum_up_what_the_wire_left_of_the_changes(wire):
    """By brute force, sender by sender and block by block. The error of a block is that of its change alone."""
    x_IPTD, wire_format = stream(0.2), pj.WIRES[wire]
    known, sums = np.zeros((P, T, D), np.float32), []
    for x_PTD in x_IPTD:
        change = jnp.asarray(x_PTD - known)
        known = known + np.asarray(wire_format.decode(wire_format.encode(change), D))
        sums.append(known)
    ours = received(f"changes:all_gather:{wire}", x_IPTD)
    assert_close(ours, of_others(np.stack(sums)), 1e-5)
    plain, exact = received(f"all_gather:{wire}", x_IPTD), of_others(x_IPTD)
    error, plain_error = (np.sqrt(((rows - exact) ** 2).mean((1, 2, 3))) for rows in (ours, plain))
    assert error[0] == pytest.approx(plain_error[0], rel=1e-6)
    assert (error[1:] < 0.6 * plain_error[1:]).all()


def test_in_float32_it_is_all_gather():
    x_IPTD = stream(0.5)
    assert_close(received("changes:all_gather", x_IPTD), of_others(x_IPTD))
    (model, params), batch, run = tiny_bert(), tiny_batch(12, padded=True), pj.on_one_device(3)
    ours, exact = (hidden_states(model, params, batch, parse(x), run) for x in ("changes:all_gather", "all_gather"))
    assert_close(ours, exact)


def test_the_gradient_is_straight_through():
    """That of rows in float32, whatever was known before."""
    (model, params), run = tiny_bert(), pj.on_one_device(3)
    parts = run.split(tiny_batch(12, padded=False))

    def gradient(text):
        return jax.jit(jax.grad(lambda params: (pj.forward(model, params, parts, parse(text), run)[0] ** 2).sum()))

    ours, exact = (gradient(text)(params) for text in ("changes:all_gather", "all_gather"))
    assert_close(ravel_pytree(ours)[0], ravel_pytree(exact)[0])


@pytest.mark.slow
@pytest.mark.parametrize("text", ["changes:all_gather:int2", "every:2:changes:all_gather:int4"])
def test_it_is_an_exchange_like_all_others(text):
    check_exchange(parse(text))


def test_what_it_can_not_be_part_of_is_refused():
    for text, fault in {
        "changes:segment_means:2": "does not send every row as it is; choose changes:all_gather:int2",
        "codebooks:8:4:changes:all_gather": "sends their changes; leave changes out",
        "principal:8:changes:all_gather": "sends their changes; leave changes out",
        "first_tokens:1:changes:all_gather": "sends every row, those of the first tokens too; leave first_tokens out",
        "keys_values:changes:all_gather": "keeps rows for another",
    }.items():
        with pytest.raises(InputError, match=fault):
            parse(text)
