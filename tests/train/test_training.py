"""Training of a tiny model: what it writes, what it refuses, that both runners train alike, when it ends."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.command import command
from helpers.paths import GOLDEN
from helpers.process import environment
from helpers.runs import FULL, PRISM, lines
from safetensors.numpy import load_file, save_file

from prism_jax import trees
from prism_jax.experiments import checkpoint
from train.step import task_losses

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def test_it_learns_and_writes_what_it_says(whole):
    losses = [line["loss"] for line in lines(whole) if "loss" in line]
    assert len(losses) == 16
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    evaluations = [line for line in lines(whole) if "score" in line]
    assert [line["step"] for line in evaluations] == [3, 6, 9, 12, 15, 16]
    result = json.loads((whole / "result.json").read_text())
    best = max(evaluations, key=lambda line: line["score"])
    assert result["evaluation"]["score"] == best["score"] == best["held_out_accuracy_percent"]
    assert result["best_step"] == result["evaluation"]["step"]
    assert 0 <= result["share_of_time_waiting_for_data"] < 1
    assert json.loads((whole / "config.json").read_text())["label_names"] == ["zero", "one", "two"]


def test_an_evaluation_of_the_checkpoint_is_that_of_training(whole, toy_config, tmp_path):
    flags = ["--split", "held_out", "--on", "one_device", "--out", tmp_path]
    assert command("eval.evaluate", toy_config, "--checkpoint", f"{whole}@16", *flags) == 0
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["score"] == lines(whole)[-1]["score"]
    assert row["examples"] == 6


@pytest.mark.slow
@pytest.mark.process
def test_a_mesh_of_data_and_parts_trains_alike_and_goes_on_elsewhere(toy_config, tmp_path):
    """The same losses, dropout included, on 2 x 3 devices and on one; then at another P, with other exchanges."""
    common = [*FULL, *PRISM, "--training.log-every", "1", "--training.epochs", "1", "--training.evaluate-every", "2"]
    common += ["--num-parts", "3", "--exchange", "segment_means:1"]
    for name, flags in {"mesh": ["--training.data", "2"], "one": []}.items():
        assert command("train.finetune", toy_config, *common, *flags, "--out", tmp_path / name) == 0
    mesh, one = ([line["loss"] for line in lines(tmp_path / name) if "loss" in line] for name in ("mesh", "one"))
    assert len(mesh) == 4
    assert_close(mesh, one)
    a, b = (trees.flatten(checkpoint.load(tmp_path / name, 4).params) for name in ("mesh", "one"))
    for path in a:
        if not path.endswith(
            "attention/key/bias"
        ):  # softmax does not see it: its gradient is noise, which AdamW blows up
            assert_close(a[path], b[path], 1e-4)
    elsewhere = ["--training.parts", "2", "--training.exchanges", "all_gather", "--training.data", "1", "--resume"]
    flags = [*common, *elsewhere, "--out", tmp_path / "mesh"]
    shutil.rmtree(tmp_path / "mesh" / "checkpoints" / "4")
    assert command("train.finetune", toy_config, *flags) == 0
    assert [line["step"] for line in lines(tmp_path / "mesh") if "loss" in line] == [1, 2, 3, 4]
    assert lines(tmp_path / "mesh")[1]["loss"] == mesh[1]

    read = (
        "from pathlib import Path; from prism_jax.experiments import checkpoint; "
        f"checkpoint.load(Path({str(tmp_path / 'mesh')!r}), 2)"
    )
    subprocess.run([sys.executable, "-c", read], env=environment(JAX_NUM_CPU_DEVICES="1"), check=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("evaluate_every", [2, 3], ids=["read at once", "read one step late"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state_before(
    evaluate_every, toy_config, tmp_path, monkeypatch, capsys
):
    def diverging(*args):
        losses = task_losses(*args)

        def diverges(trained, frozen, batch):
            loss_B, amount_B = losses(trained, frozen, batch)
            bias_C = trained["classifier"]["bias"]  # 0 before the first step
            return jax.numpy.where((bias_C == 0).all(), loss_B, jax.numpy.nan), amount_B

        return diverges

    out = tmp_path / "run"
    flags = [*FULL, "--training.evaluate-every", evaluate_every, "--training.log-every", 1, "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr("train.build.task_losses", diverging)
        assert command("train.finetune", toy_config, *flags) == 1
    assert "the loss of step 2 is nan, or" in capsys.readouterr().err
    assert [line["step"] for line in lines(out)] == [1]
    kept = checkpoint.load(out, 1)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(kept.params))
    assert (kept.params["classifier"]["bias"] != 0).any()
    assert command("train.finetune", toy_config, *flags, "--resume") == 0
    assert [line["step"] for line in lines(out) if "loss" in line] == list(range(1, 17))


@pytest.mark.slow
def test_training_ends_when_its_patience_is_spent(toy_config, tmp_path):
    """At a rate of almost nothing no evaluation is better than the first one."""
    out = tmp_path / "run"
    flags = ["--training.learning-rate", 1e-9, "--training.evaluate-every", 3, "--out", out]
    for more, last in (
        (["--training.patience", 2], 9),
        (["--training.patience", 2, "--resume"], 9),
        (["--resume"], 16),
    ):
        assert command("train.finetune", toy_config, *flags, *more) == 0
        assert [line["step"] for line in lines(out) if "score" in line] == [3, 6, 9, 12, 15, 16][: -(-last // 3)]
        assert json.loads((out / "result.json").read_text())["step"] == last


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--training.epochs", "0"], "training.epochs is 0.0; choose a number above 0"),
        (["--training.epochs", "x"], "--training.epochs"),
        (["--training.validation", "1"], "training.validation is 1.0; choose a share between 0 and 1"),
        (["--training.validation", "0.001"], "give 0 to validate on"),
        (["--training.batch-size", "0"], "training.batch_size is 0; choose 1 or more"),
        (["--training.frozen", "brain/.*"], "'brain/.*', which is no parameter's path"),
        (["--training.frozen", "(", "--num-tokens", "18"], "which is no regular expression"),
        (["--training.frozen", ".*"], "training.frozen leaves no parameter to train"),
        (["--training.fresh", "brain"], "has no parameters brain; it has classifier, encoder, pooler"),
        (
            ["--training.exchanges", "segment_means:10", "--training.parts", "2"],
            "10 segments asked for, but a part has 9",
        ),
        (
            ["--training.exchanges", "segment_means:2"],
            "segment_means:2 on training.parts 1 exchanges nothing; add --training.parts",
        ),
        (["--training.parts", "2"], "the whole sequence lies on 1 device, but num_parts is 2"),
        (
            ["--training.data", "2", "--training.batch-size", "15"],
            "batch_size is 15; choose a multiple of training.data, 2",
        ),
        (["--training.data", "3"], "batch_size is 16; choose a multiple of training.data, 3"),
        (["--training.epochs", "inf"], "training.epochs is inf; choose a finite number"),
        (["--training.learning-rate", "-1"], "training.learning_rate is -1.0; choose a number above 0"),
        (["--training.data", "16", "--num-parts", "1", "--exchange", "whole_sequence"], "16 devices are needed"),
        (["--buckets", "40"], "a bucket of 40 tokens; choose lengths from 1 to num_tokens, 18"),
        (["--start", "nowhere"], "no checkpoints in nowhere"),
        (["--training.lora-rank", "-1"], "training.lora_rank is -1; choose 0 or more"),
        (["--training.seed", str(2**32)], "training.seed is 4294967296; choose a whole number from 0 to 4294967295"),
        (["--training.seed", "-1"], "training.seed is -1; choose a whole number from 0"),
        (["--training.lora-rank", "1000000000"], "LoRA of rank 1000000000 in a layer of"),
        (["--training.batch-size", "1000000000000"], "training.batch_size is 1000000000000; choose 1 or more, up to"),
        (["--training.clip", "0"], "training.clip is 0.0; choose more than 0"),
    ],
)
def test_wrong_input_is_one_line_before_anything_slow(flags, message, toy_config, tmp_path, capsys):
    out = tmp_path / "run"
    assert command("train.finetune", toy_config, *flags, "--out", out) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert message in printed[-1]
    needs_data = message == "give 0 to validate on"
    assert printed[:-1] == (["reading data: toy, train"] if needs_data else [])
    assert not out.exists()


@pytest.mark.parametrize("module", ["train.finetune", "eval.evaluate"])
def test_weights_that_do_not_fit_are_refused_before_the_data_are_read(module, toy_config, tmp_path, capsys):
    file = tmp_path / "config.py"
    file.write_text(Path(toy_config).read_text().replace("def toy(split):", "def toy(split):\n    raise LookupError"))
    folder = Path(shutil.copytree(GOLDEN / "bert_tiny", tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.1.output.dense.bias"]
    save_file(tensors, folder / "model.safetensors")
    assert command(module, file, "--weights", folder, "--out", tmp_path / "out") == 2
    (printed,) = capsys.readouterr().err.strip().splitlines()
    assert "encoder.layer.1.output.dense.bias is missing" in printed


def test_a_folder_whose_checkpoints_could_not_be_read_is_refused(toy_config, tmp_path, capsys):
    for out in (tmp_path / "run[1]", tmp_path / "runs[1]" / "run"):
        assert command("train.finetune", toy_config, "--out", out) == 2
        assert f"can't read checkpoints from {out}, as '[' means a pattern there; choose" in capsys.readouterr().err
    named = tmp_path / "run*? {a} b::c"
    flags = ["--training.epochs", 1, "--out", named]
    assert command("train.finetune", toy_config, *flags) == 0
    assert command("train.finetune", toy_config, *flags, "--resume") == 0
