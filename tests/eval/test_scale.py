"""Time and memory of one part alone."""

import json
import os
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest
from helpers.command import command

import prism_jax as pj
from eval import scale
from eval.reporting import other_plots
from eval.scale import exponents
from eval.timing.part_program import compile_part
from prism_jax import cost
from prism_jax.errors import RunError
from prism_jax.models.bert import BERT_BASE

pytestmark = pytest.mark.usefixtures("quick_to_compile")


class Turned(pj.AllGather):
    """Every row is sent after a product with a matrix."""

    def __call__(self, x_BTD, layout):
        matrix_DE = jnp.sin(jnp.arange(x_BTD.shape[-1] ** 2, dtype=jnp.float32)).reshape(x_BTD.shape[-1], -1)
        return super().__call__(x_BTD @ matrix_DE, layout)

    def flops(self, part_len, num_parts, features):
        return 2 * part_len * features**2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exchange", "num_parts"),
    [(pj.SegmentMeans(2), 4), (pj.AllGather(), 4), (Turned(), 4), (pj.WholeSequence(), 1)],
    ids=str,
)
def test_one_part_alone_computes_what_it_would_among_the_others(exchange, num_parts):
    program, _ = compile_part(1, exchange, num_parts, 30)
    ours, formula = (
        cost.compiled(program, 1),
        cost.formula(replace(BERT_BASE.stack, num_layers=1), exchange, num_parts, 30),
    )
    assert ours.flops == pytest.approx(formula.flops, rel=1e-2)
    assert ours.bytes_sent == 0


def test_the_fitted_powers():
    rows = [
        {"exchange": name, "tokens": n, "seconds": 3.0 * n**power, "memory_activations_bytes_compiled": 5.0 * n}
        for name, power in (("a", 1.0), ("b", 2.0))
        for n in (1, 2, 4, 8)
    ]
    results = exponents(rows)
    assert results["a"]["seconds"] == pytest.approx(1)
    assert results["b"]["seconds"] == pytest.approx(2)
    assert results["b"]["memory_activations_bytes_compiled"] == pytest.approx(1)


def test_the_axes_of_the_plot_are_labelled_in_plain_numbers(monkeypatch):
    figures = []
    monkeypatch.setattr(other_plots, "save", lambda figure, path: figures.append(figure))
    measured = {"num_parts": 1, "layers": 12, "exchange": "whole_sequence"}
    rows = [
        measured | {"tokens": n, "seconds": n / 100, "memory_activations_bytes_compiled": n * 2.0**20}
        for n in (100, 1000)
    ]
    other_plots.scale(Path(), rows, exponents(rows))
    (figure,) = figures
    figure.draw_without_rendering()
    for axes, decades in zip(figure.axes, (["1", "10"], ["100", "1000"]), strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "1000"]
        labels = [label.get_text() for label in axes.get_yticklabels() if label.get_text()]
        assert set(decades) <= set(labels)
        assert all(map(float, labels))


def test_the_plot_has_room_for_more_exchanges_than_colours(tmp_path):
    measured = {"num_parts": 8, "layers": 12, "tokens": 256, "seconds": 1.0, "memory_activations_bytes_compiled": 1e6}
    rows = [measured | {"exchange": f"segment_means:{L}"} for L in range(1, 12)]
    other_plots.scale(tmp_path / "scale.png", rows, {})
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_records_that_fail_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "measure_part", lambda *args: {"error": "the process ended with status -9"})
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # the command sets them
    with pytest.raises(RunError, match="2 of 2 records failed; the same command tries them again"):
        scale.main(["--lengths", "256", "--segments", "--out", str(tmp_path)])


@pytest.mark.slow
def test_the_command_goes_on_where_it_was(tmp_path, capsys):
    flags = ["--lengths", 16, "--num-parts", 4, "--segments", "--layers", 1, "--out", tmp_path]
    for printed in (2, 0):
        assert command("eval.scale", *flags) == 0
        assert capsys.readouterr().out.count("N =     16") == printed
    content = json.loads((tmp_path / "results.json").read_text())
    rows = content["rows"]
    assert [row["exchange"] for row in rows] == ["whole_sequence", "all_gather"]
    for row, exchange in zip(rows, (pj.WholeSequence(), pj.AllGather()), strict=True):
        stack = replace(BERT_BASE.stack, num_layers=1)
        assert row["flops"] == cost.formula(stack, exchange, row["num_parts"], 16).flops
        assert row["seconds"] > row["flops"] / 1e12  # no core is so fast: the program was waited for
        weights = 4 * (4 * stack.features**2 + 2 * stack.features * stack.mlp_features)
        assert row["peak_resident_bytes"] > weights + row["memory_activations_bytes_compiled"]
    other_machine = content["environment"] | {"cpu": "another"}
    for changed in ({"library": "another"}, {"environment": other_machine}):
        (tmp_path / "results.json").write_text(json.dumps(content | changed))
        assert command("eval.scale", *flags) == 2
        assert (
            "is of another version of the library or another machine; choose another --out" in capsys.readouterr().err
        )
    assert command("eval.scale", "--lengths", 4) == 2
    assert command("eval.scale", "--segments", 64, "--lengths", 256, "--out", tmp_path) == 2
    assert "64 segments asked for, but a part has 32 tokens" in capsys.readouterr().err
