"""Wire formats against NumPy, and against the compiled program: what is really sent."""

import re
from dataclasses import dataclass
from functools import partial

import jax
import ml_dtypes
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.tiny import tiny_bert

import prism_jax as pj
from eval.scoring.rows import SettingFields
from prism_jax import cost
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import parse, text_of
from prism_jax.exchange.wire import BFLOAT16, FLOAT16, FLOAT32, INT2, INT3, INT4, INT8
from prism_jax.exchange.wrapped import sender, with_wire
from prism_jax.programs import lower

pytestmark = pytest.mark.usefixtures("quick_to_compile")

SENT_AS = {
    **{"float32": "f32", "float16": "u16", "bfloat16": "u16", "int8": "s8"},
    **{"int4": "u8", "int3": "u8", "int2": "u8"},
}
FEW_BITS = (INT4, INT3, INT2)


def rows():
    rng = np.random.default_rng(0)
    scale = np.array([0.0, 1e-6, 1.0, 30.0, 1e5])[:, None]
    return (rng.normal(size=(2, 5, 64)) * scale).astype(np.float32)


@pytest.mark.parametrize(("wire", "dtype"), [(FLOAT16, np.float16), (BFLOAT16, ml_dtypes.bfloat16)], ids=str)
def test_sixteen_bits_round_as_numpy_does(wire, dtype):
    z = rows()
    limit = float(ml_dtypes.finfo(dtype).max)
    assert np.array_equal(
        wire.decode(wire.encode(z), z.shape[-1]), np.clip(z, -limit, limit).astype(dtype).astype(np.float32)
    )


@pytest.mark.parametrize("wire", [FLOAT16, BFLOAT16], ids=str)
def test_what_is_not_finite_stays_so(wire):
    z = np.array([[[np.inf, -np.inf, np.nan, 1e30]]], np.float32)
    assert np.isfinite(wire.decode(wire.encode(z), z.shape[-1])).tolist() == [[[False, False, False, True]]]


def test_int8_is_at_most_half_a_step_off_and_keeps_the_largest():
    z = rows()
    back = np.asarray(INT8.decode(INT8.encode(z), 64))
    largest = np.abs(z).max(-1, keepdims=True)
    assert (np.abs(back - z) <= largest / 254 * (1 + 1e-5)).all()
    assert_close(np.abs(back).max(-1, keepdims=True) / np.maximum(largest, 1e-30), (largest > 0).astype(float))
    assert len(np.unique(np.round(back[0, 3] / largest[0, 3] * 127))) > 32


@partial(jax.jit, static_argnums=0)
def _there_and_back(wire, z):
    return wire.decode(wire.encode(z), z.shape[-1])


def there_and_back(wire, z) -> np.ndarray:
    return np.asarray(_there_and_back(wire, z))


@pytest.mark.parametrize("wire", FEW_BITS, ids=str)
@pytest.mark.parametrize("features", [7, 64, 100, 192])
def test_few_bits_are_at_most_half_a_step_off_in_each_group(wire, features):
    """A step is at most the range of a group, and 1/128 of its lowest number, in 2**bits - 1 parts."""
    scale = np.array([0.0, 1e-6, 1.0, 30.0, 1e35])[:, None]
    z = (np.random.default_rng(0).normal(size=(2, 5, features)) * scale).astype(np.float32)
    z[1] = z[1] + 100 * scale  # far from zero
    z[0, 2, 1] = 1e4  # one huge number
    back = there_and_back(wire, z)
    num_groups = -(-features // 64)
    size = -(-features // (8 * num_groups)) * 8
    for start in range(0, features, size):
        group = z[..., start : start + size].astype(np.float64)
        width = group.max(-1) - group.min(-1) + np.abs(group.min(-1)) / 128
        error = np.abs(back[..., start : start + size] - group).max(-1)
        assert (error <= 1.02 * width / (2**wire.bits - 1) / 2 + 1e-30).all()


@pytest.mark.parametrize("wire", FEW_BITS, ids=str)
def test_few_bits_use_all_their_levels_and_keep_equal_numbers(wire):
    z = np.stack([np.linspace(-1, 1, 64), np.full(64, 3.7), np.zeros(64)]).astype(np.float32)[None]
    back = there_and_back(wire, z)
    assert len(np.unique(back[0, 0])) == 2**wire.bits
    np.testing.assert_allclose(back[0, 1:], z[0, 1:], rtol=1e-4)


@pytest.mark.parametrize("wire", FEW_BITS, ids=str)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_group_with_a_number_that_is_not_finite_arrives_so_and_the_others_whole(wire, number):
    z = np.random.default_rng(0).normal(size=(1, 2, 128)).astype(np.float32)
    exact = there_and_back(wire, z)
    z[0, 0, 3] = number
    back = there_and_back(wire, z)
    assert not np.isfinite(back[0, 0, :64]).any()
    np.testing.assert_array_equal(back[0, 0, 64:], exact[0, 0, 64:])
    np.testing.assert_array_equal(back[0, 1], exact[0, 1])


@pytest.mark.parametrize("wire", pj.WIRES.values(), ids=str)
@pytest.mark.parametrize("features", [7, 64, 192])
def test_a_row_is_as_long_as_it_says(wire, features):
    z = rows()[..., :1].repeat(features, -1)
    assert wire.encode(z).nbytes == 2 * 5 * wire.row_bytes(features)


@pytest.mark.parametrize(
    ("exchange", "wire"),
    [*((pj.SegmentMeans(3), wire) for wire in pj.WIRES.values()), *((pj.AllGather(), x) for x in (FLOAT32, INT3))],
    ids=str,
)
def test_the_compiled_program_sends_it_in_one_collective_a_block(wire, exchange):
    model, _ = tiny_bert()
    exchange = with_wire(exchange, wire)
    program = lower(model, exchange, pj.on_mesh(4), 3, 30).compile()
    exchanges = re.findall(r"= \(?(\w+)\[[^=]* all-gather(?:-start)?\([^\n]*exchange", program.as_text())
    assert exchanges == [SENT_AS[wire.name]] * model.config.stack.num_layers
    assert cost.compiled(program, 3).bytes_sent == cost.formula(model.config.stack, exchange, 4, 30).bytes_sent


@dataclass(frozen=True)
class Loud(pj.Wrapped):
    """An exchange of a user's own around another one, with a number that is not whole."""

    weight: float

    def __call__(self, x_BTD, layout):
        context = self.of(x_BTD, layout)
        return context.replace(weight_BK=context.weight_BK * self.weight)


@pytest.mark.parametrize(
    "exchange", [Loud(pj.SegmentMeans(2, wire=INT8), 1.5), with_wire(Loud(pj.SegmentMeans(2), 1.5), INT8)]
)
def test_a_wrapped_exchange_has_the_wire_format_of_the_one_inside(exchange):
    assert (
        exchange
        == Loud(pj.SegmentMeans(2, wire=INT8), 1.5)
        == parse("loud:1.5:segment_means:2:int8")
        == parse(str(exchange))
    )
    fields = SettingFields.of(Setting(exchange, 4), 30, {30: 1})
    assert (fields.exchange, fields.wire) == ("loud:1.5:segment_means:2", "int8")
    stack = tiny_bert()[0].config.stack
    program = lower(tiny_bert()[0], exchange, pj.on_mesh(4), 3, 30).compile()
    assert cost.compiled(program, 3).bytes_sent == cost.formula(stack, exchange, 4, 30).bytes_sent
    assert cost.formula(stack, exchange, 4, 30) == cost.formula(stack, pj.SegmentMeans(2, wire=INT8), 4, 30)


def test_only_what_sends_takes_a_wire_format():
    for exchange in (pj.IsolatedParts(), pj.WholeSequence(), Loud(pj.IsolatedParts(), 2)):
        assert sender(exchange) is None
        assert with_wire(exchange, FLOAT32) == exchange
        assert not hasattr(exchange, "wire")
        with pytest.raises(ValueError, match="sends nothing, so it takes no wire format"):
            with_wire(exchange, INT8)
    inner = pj.SegmentMeans(2, wire=INT8)
    assert sender(Loud(Loud(inner, 2), 3)) == inner


@dataclass(frozen=True)
class FirstRow(pj.Sending):
    """An exchange of a user's own: it takes wire formats without doing anything for it."""

    def __call__(self, x_BTD, layout):
        return self.share(x_BTD, x_BTD[:, :1], layout.real_BPT[:, :, :1], layout.positions_PT[:, :1], layout)

    def rows_sent(self, part_len):
        return 1


@pytest.mark.parametrize(
    ("exchange", "wire"),
    [*((pj.SegmentMeans(2), wire) for wire in (FLOAT16, BFLOAT16, INT8, INT4, INT3, INT2)), (FirstRow(), INT4)],
    ids=str,
)
def test_what_arrives_is_rounded_own_rows_are_not_and_the_gradient_goes_straight_through(wire, exchange):
    run, x = pj.on_mesh(2), np.random.default_rng(1).normal(size=(2, 8, 16)).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=(2, 2, 4 + exchange.rows_sent(4), 16)).astype(np.float32)

    parts = run.split({"x": x})

    @partial(jax.jit, static_argnums=0)
    def value_and_gradient(exchange, x):
        def part(params, tokens, layout):
            return exchange(tokens["x"], layout).x_BKD

        def weighted(x):
            rows = run(part, {}, parts.replace(tokens={"x": x}))
            return (rows * weight.reshape(rows.shape)).sum(), rows

        gradient, rows = jax.grad(weighted, has_aux=True)(x)
        return rows, gradient

    def both(exchange):
        rows, gradient = value_and_gradient(exchange, parts.tokens["x"])
        return np.asarray(rows).reshape(weight.shape), np.asarray(gradient)

    exact, gradient = both(exchange)
    rounded, straight = both(with_wire(exchange, wire))
    assert_close(straight, gradient)
    assert np.array_equal(rounded[:, :, :4], exact[:, :, :4])
    sent_BLD = exact[:, :, 4:].reshape(len(exact), -1, 16)
    assert_close(rounded[:, :, 4:].reshape(sent_BLD.shape), wire.decode(wire.encode(sent_BLD), 16))
    assert not np.array_equal(rounded[:, :, 4:], exact[:, :, 4:])


def repeated(function, x):
    """`function` of `x` twice, by a loop of the compiled program."""
    return jax.lax.scan(lambda total, _: (total + function(x), None), 0.0, None, length=2)[0] / 2


@pytest.mark.parametrize(
    "training_step",
    [
        lambda loss: jax.grad(jax.jit(loss)),
        lambda loss: jax.jit(jax.grad(jax.jit(loss))),
        lambda loss: jax.jit(jax.grad(jax.checkpoint(loss))),
        lambda loss: jax.jit(jax.grad(partial(repeated, loss))),
    ],
    ids=["grad_of_jit", "jit_inside", "checkpoint", "scan"],
)
@pytest.mark.parametrize("wire", [FLOAT16, INT8], ids=str)
def test_a_training_step_of_any_form_differentiates_a_rounded_wire(wire, training_step):
    run, x = pj.on_mesh(2), np.random.default_rng(1).normal(size=(2, 8, 16)).astype(np.float32)
    parts = run.split({"x": x})

    def gradient(step, wire):
        def part(params, tokens, layout):
            return pj.SegmentMeans(2, wire=wire)(tokens["x"], layout).x_BKD

        return step(lambda x: run(part, {}, parts.replace(tokens={"x": x})).sum())(parts.tokens["x"])

    with jax.set_mesh(run.mesh):
        assert_close(gradient(training_step, wire), gradient(lambda loss: jax.jit(jax.grad(loss)), FLOAT32))


def test_on_the_command_line():
    exchange = pj.SegmentMeans(4, wire=INT8)
    assert text_of(exchange) == "segment_means:4:int8"
    assert parse("segment_means:4:int8,all_gather:float16") == (exchange, pj.AllGather(wire=FLOAT16))
    assert parse("segment_means:4:float32") == pj.SegmentMeans(4) == pj.SegmentMeans(4, wire=FLOAT32)
    with pytest.raises(ValueError, match="num_segments is 0"):
        parse("unscaled_means:0:int8")
    with pytest.raises(ValueError, match="wire format, one of float32, float16, bfloat16, int8, int4, int3, int2"):
        parse("segment_means:4:int5")
    with pytest.raises(ValueError, match="isolated_parts sends nothing, so it takes no wire format"):
        parse("isolated_parts:int8")
