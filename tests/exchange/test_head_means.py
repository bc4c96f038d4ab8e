"""Learned means of keys and values, against brute force and attention itself."""

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.command import command
from helpers.tiny import LLAMA_BLOCKS, hidden_states, stack_config, tiny_batch, tiny_bert
from safetensors.numpy import load_file

import prism_jax as pj
from prism_jax import cost
from prism_jax.errors import InputError
from prism_jax.exchange import HeadMeans, KeysValues, MeansAfterNorm
from prism_jax.exchange.text import parse
from prism_jax.testing import check_exchange

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def random_arrays(**scales: float) -> dict[str, np.ndarray]:
    """Returns arrays of two heads of four numbers: random ones where a scale is given, else zeros."""
    rng, shapes = np.random.default_rng(0), HeadMeans(3, 2).arrays(16)
    return {
        name: (scales.get(name, 0) * rng.normal(size=spec.shape)).astype(np.float32) for name, spec in shapes.items()
    }


def rows_of_segments() -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of two heads in three segments of four tokens, and which tokens are real."""
    rng = np.random.default_rng(1)
    real_BLS = rng.random((2, 3, 4)) < 0.7
    real_BLS[0, 0], real_BLS[:, 1, 0] = False, True
    return rng.normal(size=(2, 3, 4, 16)).astype(np.float32), real_BLS


def test_arrays_of_zero_make_plain_means():
    model, params = tiny_bert()
    batch = tiny_batch(19, padded=True)
    learned = hidden_states(model, params, batch, HeadMeans(2, 4), pj.on_mesh(3))
    assert_close(learned, hidden_states(model, params, batch, MeansAfterNorm(2), pj.on_mesh(3)))


def test_keys_and_values_of_a_head_weigh_by_its_keys_and_are_mapped():
    x_BLSD, real_BLS = rows_of_segments()
    arrays = random_arrays(gate_GF=1, map_CGFF=0.5, shift_CGF=0.5)
    pooled_BLD = np.asarray(HeadMeans(3, 2, **arrays).pool(x_BLSD, real_BLS))
    for b, segment in np.ndindex(2, 3):
        if not real_BLS[b, segment].any():
            continue  # nobody reads it
        keys, values = np.split(x_BLSD[b, segment][real_BLS[b, segment]].astype(float), 2, axis=-1)
        expected = np.zeros((2, 2, 4))
        for head in range(2):
            own = slice(4 * head, 4 * head + 4)
            share = np.exp(keys[:, own] @ arrays["gate_GF"][head])
            for i, numbers in enumerate((keys, values)):
                mean = share @ numbers[:, own] / share.sum()
                expected[i, head] = mean + mean @ arrays["map_CGFF"][i, head] + arrays["shift_CGF"][i, head]
        assert_close(pooled_BLD[b, segment], expected.ravel())


def test_a_reader_whose_query_is_the_gate_gets_the_answer_of_attention():
    x_BLSD, _ = rows_of_segments()
    arrays = random_arrays(gate_GF=1)
    pooled_BLD = HeadMeans(3, 2, **arrays).pool(x_BLSD, np.ones((2, 3, 4), bool))
    q_BTF = np.broadcast_to(arrays["gate_GF"][1], (2, 1, 4))
    q, k, v = (x[:, :, None] for x in (q_BTF, x_BLSD[:, 0, :, 4:8], x_BLSD[:, 0, :, 12:]))  # of the second head
    assert_close(pooled_BLD[:, 0, 12:], jax.nn.dot_product_attention(q, k, v, scale=1.0)[:, 0, 0])


def test_the_gradient_is_finite_where_a_segment_is_padding():
    model, params = tiny_bert()
    run = pj.on_one_device(3)
    parts, exchange = run.split(tiny_batch(12, padded=True)), HeadMeans(2, 4)
    zeros = {name: np.zeros(spec.shape, np.float32) for name, spec in exchange.arrays(64).items()}

    def loss(arrays):
        given = {**params, "exchange": {"head_means_4_keys_values": {f"block_{i}": arrays for i in range(2)}}}
        return (pj.forward(model, given, parts, exchange, run)[1] ** 2).sum()

    for gradient in jax.jit(jax.grad(loss))(zeros).values():
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("num_tokens", [19, 15])  # parts of 7 and 5 tokens
def test_heads_of_keys_may_be_fewer_than_those_of_queries(num_tokens):
    model, params = tiny_bert(**LLAMA_BLOCKS)
    stack, batch = model.config.stack, tiny_batch(num_tokens, padded=True)
    assert stack.kv_heads < stack.num_heads
    learned = HeadMeans(2, stack.kv_heads)
    expected = hidden_states(model, params, batch, KeysValues(pj.SegmentMeans(2)), pj.on_mesh(3))
    assert_close(hidden_states(model, params, batch, learned, pj.on_mesh(3)), expected)
    compiled = cost.compiled_from_shapes(model, learned, pj.on_mesh(3), num_tokens)
    assert compiled.flops == cost.formula(stack, learned, 3, num_tokens).flops


@pytest.mark.parametrize("wire", [pj.WIRES["float32"], pj.WIRES["int4"]], ids=lambda wire: wire.name)
def test_the_compiled_program_computes_and_sends_what_the_formula_says(wire):
    exchange = HeadMeans(2, 4, wire=wire)
    formula = cost.formula(stack_config(), exchange, 3, 18)
    compiled = cost.compiled_from_shapes(tiny_bert()[0], exchange, pj.on_mesh(3), 18)
    assert compiled.flops == formula.flops
    assert compiled.bytes_sent == formula.bytes_sent == 2 * 2 * 2 * wire.row_bytes(64)
    assert exchange.flops(6, 3, 64) == 2 * 6 * 64 + 2 * 2 * 64 * 8  # sums of 6 rows, and maps of 2
    assert exchange.flops(6, 1, 64) == 0


@pytest.mark.slow
def test_fitted_arrays_that_training_left_as_they_are_are_exported_beside_the_weights(toy_config, trained, tmp_path):
    fit = ["--exchanges", "head_means:1:2", "--base", trained, "--examples", 40, "--parts", 3, "--steps", 5]
    assert command("train.calibrate", toy_config, *fit, "--out", tmp_path) == 0
    through = ["--exchange", "head_means:1:2", "--num-parts", 3, "--exchange-arrays", tmp_path / "exchange.safetensors"]
    flags = ["--start", trained, "--training.epochs", 1, "--training.frozen", "exchange/.*", "--out", tmp_path / "run"]
    flags += ["--training.exchanges", "head_means:1:2", "--training.parts", 3]
    assert command("train.finetune", toy_config, *flags, *through) == 0
    assert command("train.export", tmp_path / "run", tmp_path / "exported") == 0
    fitted, exported = (load_file(folder / "exchange.safetensors") for folder in (tmp_path, tmp_path / "exported"))
    assert fitted.keys() == exported.keys()
    assert all((exported[name] == x).all() for name, x in fitted.items())
    assert any(np.abs(x).max() > 1e-3 for x in fitted.values())


@pytest.mark.slow
def test_it_is_an_exchange_like_all_others():
    check_exchange(parse("head_means:2:2"))


def test_another_number_of_heads_is_refused():
    with pytest.raises(InputError, match="into 5 heads, but the model's keys have 32 numbers"):
        HeadMeans(2, 5).arrays(64)
    with pytest.raises(InputError, match="num_heads"):
        HeadMeans(2, 0)
    with pytest.raises(InputError, match="shares keys and values already"):
        KeysValues(HeadMeans(2, 4))
