"""Learned means, against brute force; arrays of exchanges that training changes."""

import json

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.command import command
from helpers.tiny import hidden_states, tiny_batch, tiny_bert
from safetensors.numpy import load_file

import prism_jax as pj
from prism_jax.exchange import GatedMeans, KeysValues, MeansAfterNorm

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def test_a_gate_of_zero_makes_plain_means():
    model, params = tiny_bert()
    batch = tiny_batch(19, padded=True)
    gated = hidden_states(model, params, batch, GatedMeans(2), pj.on_mesh(3))
    assert_close(gated, hidden_states(model, params, batch, pj.SegmentMeans(2), pj.on_mesh(3)))
    gated = hidden_states(model, params, batch, KeysValues(GatedMeans(2)), pj.on_mesh(3))
    assert_close(gated, hidden_states(model, params, batch, MeansAfterNorm(2), pj.on_mesh(3)))


def test_rows_weigh_by_the_softmax_of_their_scores():
    rng = np.random.default_rng(0)
    x_BLSD, gate_D = rng.normal(size=(2, 3, 4, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    real_BLS = rng.random((2, 3, 4)) < 0.7
    real_BLS[0, 0], real_BLS[:, 1, 0] = False, True
    pooled = np.asarray(GatedMeans(3, gate_D=gate_D).pool(x_BLSD, real_BLS))
    for b, segment in np.ndindex(2, 3):
        rows = x_BLSD[b, segment][real_BLS[b, segment]].astype(float)
        share = np.exp(rows @ gate_D)
        assert_close(pooled[b, segment], (rows * share[:, None] / share.sum()).sum(0) if len(rows) else np.zeros(8))


def test_the_gradient_is_finite_where_a_segment_is_padding():
    model, params = tiny_bert()
    run = pj.on_one_device(3)
    parts = run.split(tiny_batch(12, padded=True))

    def loss(gate_D):
        exchange = GatedMeans(2)
        bound = {**params, "exchange": {"gated_means": {f"block_{i}": {"gate_D": gate_D} for i in range(2)}}}
        return (pj.forward(model, bound, parts, exchange, run)[1] ** 2).sum()

    gradient = np.asarray(jax.jit(jax.grad(loss))(np.zeros(32, np.float32)))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@pytest.mark.slow
def test_training_changes_the_gates_and_the_run_is_resumed_scored_and_exported(toy_config, trained, tmp_path):
    run, through = tmp_path / "run", ["gated_means:1", "codebooks:16:8:all_gather"]
    flags = ["--start", trained, "--training.exchanges", through[0], "--training.parts", 3]
    flags += ["--exchange", through[0], "--num-parts", 3, "--out", run]
    assert command("train.finetune", toy_config, *flags, "--training.epochs", 1) == 0
    assert command("train.export", run, tmp_path / "exported") == 0
    gates = load_file(tmp_path / "exported" / "exchange.safetensors")
    assert sorted(gates) == [f"exchange/gated_means/block_{i}/gate_D" for i in range(2)]
    assert all(np.abs(gate).max() > 1e-4 for gate in gates.values())
    score = ["--exchange", through[0], "--num-parts", 3]
    assert command("eval.evaluate", toy_config, "--checkpoint", run, *score, "--out", tmp_path / "of_run") == 0
    config = json.loads((run / "config.json").read_text())
    exported = ["--weights", tmp_path / "exported", "--exchange-arrays", tmp_path / "exported" / "exchange.safetensors"]
    assert command("eval.evaluate", toy_config, *exported, *score, "--out", tmp_path / "of_export") == 0
    records = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("of_run", "of_export")]
    assert records[0]["rows"][0]["score"] == records[1]["rows"][0]["score"]
    assert config["training"]["exchanges"] == ["gated_means:1"]
    sweep = ["--base", trained, "--tuned", run, "--parts", 3, "--segments", 1, "--exchanges", *through[:1]]
    assert command("eval.sweep", toy_config, *sweep, "--out", tmp_path / "sweep") == 0
    rows = json.loads((tmp_path / "sweep" / "results.json").read_text())["rows"]
    scores = {(row["exchange"], row["weights"]): row["score"] for row in rows}
    assert scores["gated_means", "base"] == scores["segment_means", "base"]
    assert scores["gated_means", "tuned"] == records[0]["rows"][0]["score"]
    later = ["--start", run, "--training.exchanges", "segment_means:1", "--training.parts", 3, "--training.epochs", 1]
    assert command("train.finetune", toy_config, *later, *score, "--out", tmp_path / "later") == 0
    assert command("train.export", tmp_path / "later", tmp_path / "later_exported") == 0
    kept = load_file(tmp_path / "later_exported" / "exchange.safetensors")
    assert all((kept[name] == gate).all() for name, gate in gates.items())
