"""Runs that start from another run: adapters, the run that config.json notes, and what must be the same in both."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import jax
import numpy as np
import pytest
from helpers.command import command
from helpers.runs import FULL, PRISM

import train.build
from prism_jax import trees, weights
from prism_jax.errors import InputError
from prism_jax.experiments import build, checkpoint, recipe
from prism_jax.layers import lora
from prism_jax.models.bert import BertForSequenceClassification
from prism_jax.weights import peft_files
from train import trainable
from train.plan import plan_run

pytestmark = pytest.mark.usefixtures("quick_to_compile")


ADAPTERS = [*FULL, "--training.lora-rank", "2", "--training.epochs", "1"]


@pytest.fixture(scope="module")
def exact(quick_to_compile, toy_config, tmp_path_factory):
    """A run that trained adapters on one device: 4 steps."""
    out = tmp_path_factory.mktemp("exact") / "run"
    assert command("train.finetune", toy_config, *ADAPTERS, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def prism(exact, toy_config, tmp_path_factory):
    """A run that went on with them, through segment means."""
    out = tmp_path_factory.mktemp("prism") / "run"
    assert command("train.finetune", toy_config, *ADAPTERS, *PRISM, "--start", exact, "--out", out) == 0
    return out


def started_from(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())["started_from"]


def test_lora_trains_adapters_and_the_fresh_head_only(exact):
    trained = trees.flatten(checkpoint.load(exact).params)
    assert {path.split("/")[-1] for path in trained if "encoder" in path} == {"lora_a", "lora_b"}
    assert {path for path in trained if "encoder" not in path} == {"classifier/kernel", "classifier/bias"}
    assert any((value != 0).any() for path, value in trained.items() if path.endswith("lora_b"))


def test_adapters_go_on_from_those_of_another_run_beside_the_same_kernels(exact, prism, toy_config):
    assert started_from(exact) is None
    assert started_from(prism) == {"run": str(exact), "step": 4}
    experiment = recipe.load(toy_config)
    base = build.load_model(experiment, build.load_data(experiment, "test"), fresh=("classifier",))
    a, b = (trees.flatten(build.with_trained(base, checkpoint.load(run)).params) for run in (exact, prism))
    query = "encoder/blocks/block_0/attention/query/"
    for params in (a, b):
        np.testing.assert_array_equal(params[query + "kernel"], trees.flatten(base.params)[query + "kernel"])
    assert (a[query + "lora_b"] != b[query + "lora_b"]).any()


@pytest.mark.slow
def test_an_exported_adapter_predicts_as_its_run(prism, toy_config, tmp_path):
    adapter, scored = tmp_path / "adapter", tmp_path / "scored"
    assert command("train.export", prism, adapter, "--adapter") == 0
    flags = ["--num-parts", "3", "--exchange", "segment_means:3", "--out", scored]
    predictions = []
    for source in (prism, adapter):
        assert command("eval.evaluate", toy_config, "--checkpoint", source, *flags) == 0
        predictions.append((scored / "predictions.tsv").read_text())
    assert predictions[0] == predictions[1]
    assert len(predictions[0].splitlines()) == 41


def test_a_run_starts_from_an_adapter_folded_in(exact, toy_config, tmp_path, capsys):
    adapter, out = tmp_path / "adapter", tmp_path / "run"
    assert command("train.export", exact, adapter, "--adapter") == 0
    experiment = recipe.load(toy_config)
    taught = replace(experiment.training, frozen=(), lora_rank=3, distill=recipe.Distillation(logits=1))
    plan = plan_run(replace(experiment, training=taught), str(out), start=str(adapter))
    run = train.build.build(plan)
    before = checkpoint.Trained(out, json.loads(json.dumps(plan.config)), 0, trainable.without_none(run.state.params))
    scored = build.load_run(before, BertForSequenceClassification).params
    expected = build.load_run(checkpoint.load(exact), BertForSequenceClassification).params
    for params in (trainable.combine(run.state.params, run.frozen), scored, run.teacher):
        jax.tree.map(np.testing.assert_array_equal, lora.merge(params), lora.merge(expected))

    (out / "config.json").write_text(json.dumps(plan.config))
    assert plan_run(plan.experiment, str(out), resume=True).experiment.evaluation.adapter == str(adapter)
    shutil.copytree(adapter, tmp_path / "other")
    with pytest.raises(InputError, match=f"was started from {adapter}; leave --start out"):
        plan_run(plan.experiment, str(out), resume=True, start=str(tmp_path / "other"))


@pytest.mark.slow
def test_what_follows_a_run_from_an_adapter(exact, toy_config, tmp_path, capsys):
    adapter, runs = tmp_path / "adapter", [tmp_path / name for name in ("first", "second")]
    assert command("train.export", exact, adapter, "--adapter") == 0
    for start, out in zip((adapter, runs[0]), runs, strict=True):
        assert command("train.finetune", toy_config, *ADAPTERS, "--start", start, "--out", out) == 0
        assert json.loads((out / "config.json").read_text())["adapter"] == str(adapter)
    both, scored = tmp_path / "both", tmp_path / "scored"
    assert command("train.export", runs[1], both, "--adapter") == 0
    assert json.loads((both / "adapter_config.json").read_text())["r"] == 2 + 2
    loaded = [build.load_run(checkpoint.load(runs[1]), BertForSequenceClassification)]
    assert loaded[0].folder is not None
    loaded.append(weights.load(BertForSequenceClassification, loaded[0].folder, num_labels=3, adapter=both))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), *(lora.merge(x.params) for x in loaded))
    for out in runs:
        evaluate = ("eval.evaluate", toy_config, "--checkpoint", out, "--split", "held_out", "--out", scored)
        assert command(*evaluate) == 0
        row = json.loads((scored / "results.json").read_text())["rows"][0]
        evaluation = json.loads((out / "result.json").read_text())["evaluation"]
        assert row["score"] == pytest.approx(evaluation["held_out_accuracy_percent"])


@pytest.mark.slow
def test_a_layer_that_is_trained_completely_goes_out_without_the_adapter_that_it_began_with(
    exact, toy_config, tmp_path
):
    loaded, rng = build.load_run(checkpoint.load(exact), BertForSequenceClassification), np.random.default_rng(0)
    flat = trees.flatten(loaded.params)
    D, M = flat["pooler/kernel"].shape
    flat |= {"pooler/lora_a": rng.normal(size=(D, 2)), "pooler/lora_b": rng.normal(size=(2, M))}
    params = trees.unflatten({path: np.float32(x) for path, x in flat.items()} | {"pooler/lora_scale": np.float32(1)})
    adapter, out, both = (tmp_path / name for name in ("adapter", "run", "both"))
    peft_files.save(adapter, loaded.model, params, base="org/name", whole=["classifier"])
    flags = [*ADAPTERS, "--training.fresh", "classifier", "pooler", "--start", adapter, "--out", out]
    assert command("train.finetune", toy_config, *flags) == 0
    assert command("train.export", out, both, "--adapter") == 0
    trained = build.load_run(checkpoint.load(out), BertForSequenceClassification)
    assert trained.folder is not None
    written = weights.load(BertForSequenceClassification, trained.folder, num_labels=3, adapter=both)
    for name in ("pooler", "classifier"):
        jax.tree.map(np.testing.assert_array_equal, written.params[name], trained.params[name])


@pytest.mark.slow
def test_every_parameter_is_trained_from_the_adapters_folded_in(exact, prism, toy_config, tmp_path, capsys):
    out = tmp_path / "run"
    flags = [*FULL, "--training.epochs", "1", "--out", out]
    assert command("train.finetune", toy_config, *flags, "--start", exact) == 0
    again = [*flags, "--resume"]
    assert command("train.finetune", toy_config, *again) == 0
    assert started_from(out)["run"] == str(exact)
    begun = f"{out} was started from {exact}@4; leave --start out"
    for start, message in ((prism, begun), (f"{exact}@3", f"no checkpoint of step 3 in {exact}; there are 4")):
        assert command("train.finetune", toy_config, *again, "--start", start) == 2
        assert message in capsys.readouterr().err
    assert command("train.finetune", toy_config, *again, "--start", f"{exact}@4") == 0
    trained = checkpoint.load(out)
    params = build.load_run(trained, BertForSequenceClassification).params
    assert jax.tree.structure(params) == jax.tree.structure(trained.params)
    jax.tree.map(np.testing.assert_array_equal, params, trained.params)
    assert command("train.export", out, tmp_path / "none", "--adapter") == 2


def test_a_run_is_not_scored_on_classes_in_another_order(toy_config, trained, tmp_path, capsys):
    other = tmp_path / "other.py"
    other.write_text(Path(toy_config).read_text().replace('("zero", "one", "two")', '("two", "one", "zero")'))
    assert command("eval.evaluate", other, "--checkpoint", trained, "--out", tmp_path) == 2
    assert "was trained with the classes zero, one, two; toy, test has two, one, zero" in capsys.readouterr().err
    assert command("train.finetune", other, "--start", trained, "--out", tmp_path / "run") == 2
    assert "was trained with the classes zero, one, two" in capsys.readouterr().err


@pytest.mark.slow
def test_data_that_changed_are_noticed(toy_config, tmp_path, monkeypatch, capsys):
    def write(folder: Path, number: int, changed: str = "") -> Path:
        texts = [changed or f"w{i % 9} w{i % 2}" if i == 3 else f"w{i % 9} w{i % 2}" for i in range(number)]
        lines = [json.dumps({"sentence": text, "label": i % 2}) + "\n" for i, text in enumerate(texts)]
        (folder / "sst2").mkdir(parents=True, exist_ok=True)
        (folder / "sst2" / "train.jsonl").write_text("".join(lines))
        return folder

    def go(module: str, *flags, source: Path = tmp_path / "data") -> tuple[int, str]:
        epochs = ["--training.epochs", 1] if module == "train.finetune" else []
        status = command(module, toy_config, "--dataset", "glue/sst2", "--data-source", source, *epochs, *flags)
        return status, capsys.readouterr().err

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source, out = write(tmp_path / "data", 60), tmp_path / "run"
    assert go("train.finetune", "--out", out)[0] == 0
    expected = json.loads((out / "config.json").read_text())
    assert {name: part["examples"] for name, part in expected["data"].items()} == {"training": 54, "held_out": 6}

    write(source, 60, changed="w8")
    status, error = go("train.finetune", "--out", out, "--resume")
    assert (status, error) == (
        2,
        "reading data: glue/sst2, train\n"  # and no weights
        f"error: the data have changed since {out} was started; training: different text; "
        "choose another --out, or give the same data\n",
    )
    write(source, 50)
    status, error = go("train.finetune", "--out", out, "--resume")
    assert status == 2
    assert "training: 45 examples, where there were 54; held_out: 5 examples, where there were 6; choose" in error
    scoring = ["eval.evaluate", "--split", "held_out", "--checkpoint", out, "--out", tmp_path / "scored"]
    for how in (["train.finetune", "--start", out, "--out", tmp_path / "other"], scoring):
        status, error = go(*how)
        assert status == 2
        assert (
            f"changed since the run in {out} was trained: 5 examples, where there were 6 held out; give the same"
            in error
        )
    assert not (tmp_path / "other" / "config.json").exists()
    elsewhere = write(tmp_path / "elsewhere", 50)  # other data on purpose
    assert go("train.finetune", "--start", out, "--out", tmp_path / "other", source=elsewhere)[0] == 0
    (out / "config.json").write_text(json.dumps({name: value for name, value in expected.items() if name != "data"}))
    assert go("train.finetune", "--out", out, "--resume")[0] == 0  # as earlier versions wrote it


def test_held_out_examples_are_scored_as_in_training(toy_config, trained, tmp_path, capsys):
    flags = ["--checkpoint", trained, "--split", "held_out", "--compute-dtype", "bfloat16", "--out", tmp_path]
    assert command("eval.evaluate", toy_config, *flags) == 2
    assert "was trained with different compute_dtype; use the same values" in capsys.readouterr().err


def test_runs_that_started_from_each_other_are_refused(toy_config, trained, tmp_path, capsys):
    runs = [Path(shutil.copytree(trained, tmp_path / name)) for name in ("a", "b")]
    for run, start in zip(runs, reversed(runs), strict=True):
        content = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(content | {"started_from": {"run": str(start), "step": 4}}))
    message = (
        f"{runs[0]}/config.json says that the run started from itself, by way of {runs[1]}; train into a new folder"
    )
    for argv in (
        ("eval.evaluate", toy_config, "--checkpoint", runs[0], "--out", tmp_path / "out"),
        ("train.export", runs[0], tmp_path / "out", "--adapter"),
        ("train.finetune", toy_config, "--out", runs[0], "--resume"),
    ):
        assert command(*argv) == 2
        assert capsys.readouterr().err == f"error: {message}\n"
