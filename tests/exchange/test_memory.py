"""Rows that were sent before an earlier block: displaced exchanges and silent blocks."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.tiny import hidden_states, stack_config, tiny_batch, tiny_bert
from jax.flatten_util import ravel_pytree

import prism_jax as pj
from prism_jax import cost
from prism_jax.errors import InputError
from prism_jax.exchange import Codebooks, Displaced, Every, FirstTokens
from prism_jax.exchange.base import check
from prism_jax.exchange.text import parse
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.transformer import Stack
from prism_jax.testing import check_exchange

pytestmark = pytest.mark.usefixtures("quick_to_compile")

READS = {
    "displaced:segment_means:2": (0, 0, 1, 2, 3),
    "every:2:segment_means:2": (0, 0, 2, 2, 4),
    "displaced:every:2:segment_means:2": (0, 0, 0, 2, 2),
    "every:2:displaced:segment_means:2": (0, 0, 0, 0, 2),
    "every:3:segment_means:2:int8": (0, 0, 0, 3, 3),
}
"""The block before which the rows were sent that each of five blocks reads."""

HIDDEN = dict(zip(READS, (3, 0, 1, 1, 0), strict=True))
"""Collectives that no block reads which they stand before: all but that of block 0 where rows are displaced."""

STACK = TransformerConfig(5, 8, 2, 16, norm_first=False)


@jax.numpy_rank_promotion("allow")
def by_hand(params, x_PTD, reads):
    """Blocks one after another, and in each of them part after part: post-norm, all tokens real, means of two halves
    of a part with the weight of a half."""
    P, T, D = x_PTD.shape

    def norm(y, p):
        centred = y - y.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + STACK.norm_eps) * p["scale"] + p["bias"]

    def linear(y, p):
        return y @ p["kernel"] + p["bias"]

    sent, x = [], list(x_PTD)
    for i, read in enumerate(reads):
        block = params[f"block_{i}"]
        sent.append([rows.reshape(2, T // 2, D).mean(1) for rows in x])
        after = []
        for part, own in enumerate(x):
            others = [sent[read][(part + offset) % P] for offset in range(1, P)]
            rows, weight = jnp.concatenate([own, *others]), np.array([1] * T + [T // 2] * 2 * (P - 1))
            q, k, v = (
                linear(y, block["attention"][name]) for y, name in ((own, "query"), (rows, "key"), (rows, "value"))
            )
            heads = []
            for head in (slice(0, 4), slice(4, 8)):
                score = jnp.exp(q[:, head] @ k[:, head].T / 2) * weight
                heads.append(score / score.sum(-1, keepdims=True) @ v[:, head])
            y = norm(own + linear(jnp.concatenate(heads, -1), block["attention"]["output"]), block["norm_1"])
            up = jax.nn.gelu(linear(y, block["mlp"]["up"]), approximate=False)
            after.append(norm(y + linear(up, block["mlp"]["down"]), block["norm_2"]))
        x = after
    return jnp.stack(x)


def stack_program(text, run):
    """A function of parameters and rows in parts, with its arguments: three parts of four tokens."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 12, 8)).astype(np.float32)
    layout = pj.Layout(jnp.int32(0), jnp.ones((1, 12), bool), None, num_parts=1, num_tokens=12)
    shapes = jax.eval_shape(lambda: Stack(STACK).init(jax.random.key(0), x, pj.WholeSequence(), layout))["params"]
    params = jax.tree.map(lambda spec: rng.normal(0.3, 0.5, spec.shape).astype(np.float32), shapes)

    def part(params, tokens, layout):
        return Stack(STACK).apply({"params": params}, tokens["x"], parse(text), layout)[0]

    return jax.jit(lambda params, parts: run(part, params, parts)), run.replicate(params), run.split({"x": x})


@pytest.mark.parametrize(
    "text", [pytest.param(text, marks=() if "every:2:displaced" in text else pytest.mark.slow) for text in READS]
)
def test_blocks_read_what_was_sent_before_an_earlier_one(text):
    """By brute force; and the compiled program has the collectives that are read, and no others."""
    program, params, parts = stack_program(text, pj.on_mesh(3))
    compiled = program.lower(params, parts).compile()
    x_PTD = np.asarray(parts.tokens["x"]).reshape(3, 4, 8)
    ours = np.asarray(compiled(params, parts)).reshape(3, 4, 8)
    assert_close(ours, by_hand(jax.device_get(params), x_PTD, READS[text]), 2e-2 if "int8" in text else 1e-5)
    assert np.abs(ours - by_hand(jax.device_get(params), x_PTD, range(5))).max() > 0.05
    formula, measured = cost.formula(STACK, parse(text), 3, 12), cost.compiled(compiled, 1)
    names = ("bytes_sent", "bytes_received", "collectives", "collectives_hidden")
    assert [getattr(measured, name) for name in names] == [getattr(formula, name) for name in names]


@pytest.mark.parametrize("text", READS)
def test_the_formula_counts_what_is_read(text):
    """Also where a block has two collectives."""
    sent = len(set(READS[text]))
    formula, each = cost.formula(STACK, parse(text), 3, 12), cost.formula(STACK, pj.SegmentMeans(2), 3, 12)
    assert (formula.collectives, formula.collectives_hidden) == (sent, HIDDEN[text])
    assert formula.flops == each.flops
    if "int8" not in text:
        assert formula.bytes_sent == each.bytes_sent * sent / 5
    with_first = parse(text.replace("segment_means", "first_tokens:1:segment_means"))
    twice = cost.formula(STACK, with_first, 3, 12)
    assert (twice.collectives, twice.collectives_hidden) == (2 * sent, 2 * HIDDEN[text])


@pytest.mark.slow
def test_the_gradient_is_that_of_the_brute_force():
    text = "displaced:segment_means:2"
    program, params, parts = stack_program(text, pj.on_one_device(3))
    ours = jax.grad(lambda params: (program(params, parts) ** 3).sum())(params)
    x_PTD = np.asarray(parts.tokens["x"]).reshape(3, 4, 8)
    expected = jax.jit(jax.grad(lambda params: (by_hand(params, x_PTD, READS[text]) ** 3).sum()))(params)
    assert_close(ravel_pytree(ours)[0], ravel_pytree(expected)[0], 1e-4)


@pytest.mark.parametrize(
    ("exchange", "num_parts"),
    [(Every(pj.SegmentMeans(2), 1), 3), pytest.param(Displaced(pj.SegmentMeans(2)), 1, marks=pytest.mark.slow)],
    ids=str,
)
def test_what_equals_the_other_exchange_bit_for_bit(exchange, num_parts):
    """An exchange in every block, and a displaced one without other parts."""
    (model, params), batch, run = tiny_bert(), tiny_batch(12, padded=True), pj.on_one_device(num_parts)
    ours = hidden_states(model, params, batch, exchange, run)
    np.testing.assert_array_equal(ours, hidden_states(model, params, batch, exchange.of, run))


@pytest.mark.slow
@pytest.mark.parametrize(
    "exchange",
    [
        Displaced(pj.AllGather(wire=pj.WIRES["int4"])),
        Every(Codebooks(pj.AllGather(), 8, 4), 2),
        Codebooks(Displaced(pj.AllGather()), 8, 4),
        Displaced(FirstTokens(pj.SegmentMeans(2), 2)),
    ],
    ids=str,
)
def test_they_are_exchanges_like_all_others(exchange):
    """Causality, padding, batch mates, bytes, and three devices as one."""
    check_exchange(exchange)


def test_they_read_as_they_are_written():
    for text in READS:
        assert str(parse(text)) == text
    assert parse("every:2:displaced:all_gather:int4") == Every(Displaced(pj.AllGather(wire=pj.WIRES["int4"])), 2)


def test_an_exchange_around_them_hands_on_the_memory():
    @dataclass(frozen=True)
    class Forgetful(pj.Wrapped):
        def __call__(self, x_BTD, layout):
            context = self.of(x_BTD, layout)
            return pj.Context(context.x_BKD, context.weight_BK, context.last_K)

    model, params = tiny_bert()
    with pytest.raises(InputError, match="displaced:all_gather lost the rows of the block before; an exchange around"):
        hidden_states(
            model, params, tiny_batch(12, padded=False), Forgetful(Displaced(pj.AllGather())), pj.on_one_device(3)
        )


def test_they_stand_in_all_blocks():
    displaced = Displaced(pj.AllGather())
    check((displaced, displaced), 12, 3)
    with pytest.raises(InputError, match="needs the rows of an earlier block; give it alone, for all blocks"):
        check((displaced, pj.AllGather()), 12, 3)
    stack = replace(stack_config(), num_layers=1)
    assert cost.formula(stack, displaced, 3, 12) == cost.formula(stack, pj.AllGather(), 3, 12)
