"""Runs that an earlier version trained are scored, resumed and exported as that version did,
see tests/golden/run_before."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from helpers.command import command
from helpers.paths import GOLDEN
from safetensors.numpy import load_file

pytestmark = pytest.mark.usefixtures("quick_to_compile")

BEFORE = GOLDEN / "run_before"
EXPECTED = json.loads((BEFORE / "expected.json").read_text())
RECIPE = """
from dataclasses import replace

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments import recipe

config = recipe.load({toy_config!r})
config = replace(
    config,
    weights="model",
    setting=recipe.Setting(SegmentMeans(3), num_parts=2),
    training=replace(config.training, log_every=1),
)
"""
TRAINED = {"head": ("",), "lora": ("layer.1.attention.self.query", "classifier")}
"""Parts of the names of the exported tensors that the digest covers."""


@pytest.fixture(autouse=True)
def folder(toy_config, toy_folder, tmp_path, monkeypatch):
    """The folder in which the runs were trained, with today's recipe."""
    shutil.copytree(toy_folder, tmp_path / "model")
    for name in EXPECTED:
        shutil.copytree(BEFORE / name, tmp_path / name)
    (tmp_path / "toy.py").write_text(RECIPE.format(toy_config=toy_config))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_scored(name):
    assert command("eval.evaluate", "toy.py", "--checkpoint", name, "--out", "scored") == 0
    (row,) = json.loads(Path("scored/results.json").read_text())["rows"]
    for field in ("setting", "num_parts", "metric", "score", "score_ci95", "examples"):
        assert row[field] == EXPECTED[name][field]


@pytest.mark.slow
def test_it_is_resumed():
    assert command("train.finetune", "toy.py", "--out", "head", "--resume") == 0
    result = json.loads(Path("head/result.json").read_text())
    assert (result["first_step"], result["step"], result["best_step"]) == (9, 16, 8)
    lines = [json.loads(line) for line in Path("head/metrics.jsonl").read_text().splitlines()]
    losses = {str(line["step"]): line["loss"] for line in lines if line["step"] > 9 and "loss" in line}
    assert losses == pytest.approx(EXPECTED["head"]["losses_after_resume"], rel=1e-3)


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_exported(name):
    assert command("train.export", name, "exported", *(["--adapter"] if name == "lora" else [])) == 0
    (file,) = Path("exported").glob("*.safetensors")
    sha256 = hashlib.sha256()
    for tensor_name, tensor in sorted(load_file(file).items()):
        if any(part in tensor_name for part in TRAINED[name]):
            sha256.update(f"{tensor_name}{tensor.dtype}{tensor.shape}".encode() + tensor.tobytes())
    assert sha256.hexdigest() == EXPECTED[name]["exported_sha256"]
