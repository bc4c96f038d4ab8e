"""Fine-tuning on a tiny model: what it writes, that it goes on as if never stopped, that both runners train alike."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.command import command
from helpers.paths import GOLDEN, ROOT
from safetensors.numpy import load_file, save_file

from prism_jax import trees
from prism_jax.errors import InputError
from prism_jax.experiments import build, checkpoint, recipe
from prism_jax.models.bert import BertForSequenceClassification

pytestmark = pytest.mark.usefixtures("quick_to_compile")

FULL = ["--training.frozen", "--training.learning-rate", "0.003", "--training.batch-size", "16"]
"""All parameters are trained: 54 examples, 4 steps an epoch, 16 steps."""
PRISM = ["--training.exchanges", "segment_means:1", "segment_means:3", "--training.parts", "3"]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | more


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_times(out: Path) -> list[dict]:
    return [{name: x for name, x in line.items() if name not in ("seconds", "time", "waited")} for line in lines(out)]


def assert_same_parameters(one: Path, other: Path) -> None:
    """To the last bit, at the last step of both."""
    a, b = (checkpoint.load(out, 16) for out in (one, other))
    assert jax.tree.structure(a.params) == jax.tree.structure(b.params)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


@pytest.fixture(scope="module")
def whole(toy_config, tmp_path_factory):
    """A run through segment means, from beginning to end."""
    out = tmp_path_factory.mktemp("whole") / "run"
    flags = [*FULL, *PRISM, "--training.log-every", "1", "--training.evaluate-every", "3", "--out", out]
    assert command("train.finetune", toy_config, *flags) == 0
    return out


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


def test_a_run_that_is_done_stays_as_it_is(whole, toy_config, tmp_path, capsys):
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    flags = [*FULL, *PRISM, "--training.log-every", "1", "--training.evaluate-every", "3", "--out", out, "--resume"]
    assert command("train.finetune", toy_config, *flags) == 0
    said = capsys.readouterr().out
    assert (
        "trained through segment_means:1 on 3, segment_means:3 on 3; checkpoints chosen by segment_means:8 on 2" in said
    )
    for name in ("result.json", "metrics.jsonl"):
        assert (out / name).read_text() == (whole / name).read_text()
    result = json.loads((out / "result.json").read_text())
    assert result["first_step"] == 0
    assert result["seconds"] > lines(whole)[-1]["seconds"] > 0


def test_stopped_by_ctrl_c_it_saves_and_goes_on_as_if_never_stopped(whole, toy_config, tmp_path, monkeypatch, capsys):
    from train import log

    real, out = log.Log.write, tmp_path / "run"

    def stop_at_seven(self, values):
        real(self, values)
        if values["step"] == 7:
            os.kill(os.getpid(), signal.SIGINT)

    flags = [*FULL, *PRISM, "--training.log-every", "1", "--training.evaluate-every", "3", "--out", out]
    monkeypatch.setattr(log.Log, "write", stop_at_seven)
    assert command("train.finetune", toy_config, *flags) == 1
    assert "stopped at step 8 of 16, which is saved; go on with --resume" in capsys.readouterr().err
    monkeypatch.setattr(log.Log, "write", real)
    assert command("train.finetune", toy_config, *flags, "--resume") == 0
    assert_same_parameters(out, whole)
    assert without_times(out) == without_times(whole)


def test_killed_at_any_time_it_goes_on_as_if_never_stopped(toy_config, tmp_path):
    flags = [*FULL, *PRISM, "--training.log-every", "1", "--training.evaluate-every", "3"]

    def train(out: Path, *more: str, kill_at: int | None = None) -> None:
        command = [sys.executable, "-m", "train.finetune", toy_config, *flags, "--out", str(out), *more]
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        while kill_at and process.poll() is None:
            if (out / "metrics.jsonl").exists() and lines_so_far(out) >= kill_at:
                process.kill()
            time.sleep(0.02)
        _, said = process.communicate(timeout=300)
        assert process.returncode == (-signal.SIGKILL if kill_at else 0), said.decode()[-2000:]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole)
    train(killed, kill_at=4)
    train(killed, "--resume", kill_at=10)
    train(killed, "--resume")
    assert_same_parameters(killed, whole)
    assert without_times(killed) == without_times(whole)


def lines_so_far(out: Path) -> int:
    """The last step that was written, of a file that another process writes."""
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().split("\n")[:-1] if line]
    return max(steps, default=0)


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

    read = f"from pathlib import Path; from prism_jax.experiments import checkpoint; checkpoint.load(Path({str(tmp_path / 'mesh')!r}), 2)"
    subprocess.run([sys.executable, "-c", read], env=environment(JAX_NUM_CPU_DEVICES="1"), check=True, timeout=300)


def test_a_damaged_checkpoint_is_passed_over(whole, toy_config, tmp_path, capsys):
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    for path in (out / "checkpoints" / "16" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    flags = [*FULL, *PRISM, "--training.log-every", "1", "--training.evaluate-every", "3", "--out", out, "--resume"]
    assert command("train.finetune", toy_config, *flags) == 0
    assert f"passed over: checkpoint 16, now in {out}/damaged/16: " in capsys.readouterr().out
    assert without_times(out) == without_times(whole)
    assert_same_parameters(out, whole)
    (out / "checkpoints" / "16" / "metrics" / "metrics").write_text("{")
    assert command("eval.evaluate", toy_config, "--checkpoint", out) == 2
    assert "checkpoint 16 in" in capsys.readouterr().err
    assert command("train.finetune", toy_config, *flags) == 0
    assert "passed over: checkpoint 16, now in" in capsys.readouterr().out
    assert_same_parameters(out, whole)
    for folder in (out / "checkpoints").iterdir():
        for path in (folder / "state").rglob("*"):
            if path.is_file():
                path.write_bytes(b"of something else")
    assert command("train.finetune", toy_config, *flags) == 2
    assert "is damaged or of another model" in capsys.readouterr().err.strip().splitlines()[-1]


def test_broken_lines_of_the_log_do_not_keep_a_run_from_going_on(whole, toy_config, tmp_path, capsys):
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    path, broken = (
        out / "metrics.jsonl",
        [b'{"step": 4, "lo', b"null", b"[1]", b'{"loss": 1.0}', b'{"step": "5"}', b"\xff\xfe", b""],
    )
    broken += [b'{"step": 5, "score": "high"}', b'{"step": 5, "score": NaN}', b"[" * 100_000]
    content = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*content[:5], *broken, *content[5:-1], b'{"step": 16, "los']))
    flags = [*FULL, *PRISM, "--training.log-every", "1", "--training.evaluate-every", "3", "--out", out, "--resume"]
    assert command("train.finetune", toy_config, *flags) == 0
    assert (
        f"passed over: line 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 of {path}, now in {out}/damaged/metrics.jsonl"
        in capsys.readouterr().out
    )
    assert lines(out) == lines(whole)
    assert (out / "damaged" / "metrics.jsonl").read_bytes().split(b"\n")[:-1] == broken
    assert_same_parameters(out, whole)


def test_a_flipped_bit_is_noticed(whole, toy_config, tmp_path, capsys):
    """Orbax reads one in the middle of an array without a word."""
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    largest = max((out / "checkpoints" / "16" / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(
        InputError, match="checkpoint 16 in .* is damaged or of another model: its values are not those"
    ):
        checkpoint.load(out, 16)
    flags = [*FULL, *PRISM, "--training.log-every", "1", "--training.evaluate-every", "3", "--out", out, "--resume"]
    assert command("train.finetune", toy_config, *flags) == 0
    assert f"passed over: checkpoint 16, now in {out}/damaged/16: " in capsys.readouterr().out
    assert_same_parameters(out, whole)


def test_a_checkpoint_of_another_recipe_is_passed_over(whole, toy_config, tmp_path, capsys):
    """Same model, same shapes: only what the run says of itself tells them apart."""
    flags = [*FULL, *PRISM, "--training.epochs", "1", "--training.evaluate-every", "2", "--out", tmp_path / "run"]
    assert command("train.finetune", toy_config, *flags) == 0
    shutil.copytree(whole / "checkpoints" / "16", tmp_path / "run" / "checkpoints" / "16")
    assert command("train.finetune", toy_config, *flags, "--resume") == 0
    assert "is of another run" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["2", "4"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state_before(toy_config, tmp_path, monkeypatch, capsys):
    from prism_jax.tasks.classification import Classification

    real = Classification.losses

    def diverges(self, model, params, parts, targets, exchange, run):
        loss_B, amount_B = real(self, model, params, parts, targets, exchange, run)
        bias = params["classifier"]["bias"]  # 0 before the first step
        return jax.numpy.where((bias == 0).all(), loss_B, jax.numpy.nan), amount_B

    out = tmp_path / "run"
    monkeypatch.setattr(Classification, "losses", diverges)
    assert command("train.finetune", toy_config, *FULL, "--out", out) == 1
    assert "the loss of step 2 is nan" in capsys.readouterr().err
    kept = checkpoint.load(out, 1)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(kept.params))
    assert (kept.params["classifier"]["bias"] != 0).any()
    monkeypatch.setattr(Classification, "losses", real)
    assert command("train.finetune", toy_config, *FULL, "--out", out, "--resume") == 0
    assert json.loads((out / "result.json").read_text())["step"] == 16


def test_lora_trains_adapters_and_the_fresh_head_only(toy_config, tmp_path, capsys):

    exact, prism = tmp_path / "exact", tmp_path / "prism"
    flags = [*FULL, "--training.lora-rank", "2", "--training.epochs", "1"]
    assert command("train.finetune", toy_config, *flags, "--out", exact) == 0
    trained = trees.flatten(checkpoint.load(exact).params)
    assert {path.split("/")[-1] for path in trained if "encoder" in path} == {"lora_a", "lora_b"}
    assert {path for path in trained if "encoder" not in path} == {"classifier/kernel", "classifier/bias"}
    assert any((value != 0).any() for path, value in trained.items() if path.endswith("lora_b"))

    assert command("train.finetune", toy_config, *flags, *PRISM, "--start", exact, "--out", prism) == 0
    adapter = tmp_path / "adapter"
    assert command("train.export", prism, adapter, "--adapter") == 0
    predictions = []
    for source in (prism, adapter):
        scored = [
            "--checkpoint",
            source,
            "--num-parts",
            "3",
            "--exchange",
            "segment_means:3",
            "--out",
            tmp_path / "scored",
        ]
        assert command("eval.evaluate", toy_config, *scored) == 0
        predictions.append((tmp_path / "scored" / "predictions.tsv").read_text())
    assert predictions[0] == predictions[1]
    assert len(predictions[0].splitlines()) == 41
    assert json.loads((prism / "config.json").read_text())["started_from"] == {"run": str(exact), "step": 4}
    whole = tmp_path / "whole"  # every parameter, from the adapters folded in
    assert (
        command(
            "train.finetune",
            toy_config,
            *FULL,
            "--training.epochs",
            "1",
            "--start",
            exact,
            "--out",
            whole,
        )
        == 0
    )
    again = [*FULL, "--training.epochs", "1", "--out", whole, "--resume"]
    assert command("train.finetune", toy_config, *again) == 0
    assert json.loads((whole / "config.json").read_text())["started_from"]["run"] == str(exact)
    begun = f"{whole} was started from {exact}@4; leave --start out"
    for start, message in ((prism, begun), (f"{exact}@3", f"no checkpoint of step 3 in {exact}; there are 4")):
        assert command("train.finetune", toy_config, *again, "--start", start) == 2
        assert message in capsys.readouterr().err
    assert command("train.finetune", toy_config, *again, "--start", f"{exact}@4") == 0
    left, kept = (
        build.load_run(checkpoint.load(whole), BertForSequenceClassification).params,
        checkpoint.load(whole).params,
    )
    assert jax.tree.structure(left) == jax.tree.structure(kept)
    jax.tree.map(np.testing.assert_array_equal, left, kept)
    assert command("train.export", whole, tmp_path / "none", "--adapter") == 2

    said = recipe.load(toy_config)
    base = build.load_model(said, build.load_data(said, "test"), fresh=("classifier",))
    a, b = (build.with_trained(base, checkpoint.load(run)).params for run in (exact, prism))
    kernel = "encoder/blocks/block_0/attention/query/"
    a, b, base = map(trees.flatten, (a, b, base.params))
    np.testing.assert_array_equal(a[kernel + "kernel"], base[kernel + "kernel"])
    assert (a[kernel + "lora_b"] != b[kernel + "lora_b"]).any()


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
        (["--training.data", "16", "--num-parts", "1", "--exchange", "isolated_parts"], "16 devices are needed"),
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
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert len(said) == 1
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
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "encoder.layer.1.output.dense.bias is missing" in said


def test_a_folder_whose_checkpoints_could_not_be_read_is_refused(toy_config, tmp_path, capsys):
    for out in (tmp_path / "run[1]", tmp_path / "runs[1]" / "run"):
        assert command("train.finetune", toy_config, "--out", out) == 2
        assert f"can't read checkpoints from {out}, as '[' means a pattern there; choose" in capsys.readouterr().err
    named = tmp_path / "run*? {a} b::c"
    flags = ["--training.epochs", 1, "--out", named]
    assert command("train.finetune", toy_config, *flags) == 0
    assert command("train.finetune", toy_config, *flags, "--resume") == 0


def test_a_run_is_not_overwritten(whole, toy_config, capsys):
    assert command("train.finetune", toy_config, "--out", whole) == 2
    assert "holds a run already; add --resume to go on with it, or choose another --out" in capsys.readouterr().err
    again = ["--out", whole, "--resume", "--num-tokens", "12", "--training.seed", "3", "--exchange", "all_gather"]
    assert command("train.finetune", toy_config, *again, *FULL) == 2
    assert (
        "was started with another num_tokens, exchange, training.evaluate_every, training.seed"
        in capsys.readouterr().err
    )


def test_a_run_is_not_scored_on_classes_in_another_order(toy_config, trained, tmp_path, capsys):
    other = tmp_path / "other.py"
    other.write_text(Path(toy_config).read_text().replace('("zero", "one", "two")', '("two", "one", "zero")'))
    assert command("eval.evaluate", other, "--checkpoint", trained, "--out", tmp_path) == 2
    assert "was trained with the classes zero, one, two; toy, test has two, one, zero" in capsys.readouterr().err
    assert command("train.finetune", other, "--start", trained, "--out", tmp_path / "run") == 2
    assert "was trained with the classes zero, one, two" in capsys.readouterr().err


def test_data_that_changed_are_noticed(toy_config, tmp_path, monkeypatch, capsys):
    def write(folder: Path, number: int, changed: str = "") -> Path:
        texts = [changed or f"w{i % 9} w{i % 2}" if i == 3 else f"w{i % 9} w{i % 2}" for i in range(number)]
        lines = [json.dumps({"sentence": text, "label": i % 2}) + "\n" for i, text in enumerate(texts)]
        (folder / "sst2").mkdir(parents=True, exist_ok=True)
        (folder / "sst2" / "train.jsonl").write_text("".join(lines))
        return folder

    def go(module: str, *flags, source: Path = tmp_path / "data") -> tuple[int, str]:
        said = ["--dataset", "glue/sst2", "--data-source", source, "--training.epochs", 1, *flags]
        status = command(module, toy_config, *said)
        return status, capsys.readouterr().err

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source, out = write(tmp_path / "data", 60), tmp_path / "run"
    assert go("train.finetune", "--out", out)[0] == 0
    told = json.loads((out / "config.json").read_text())
    assert {name: part["examples"] for name, part in told["data"].items()} == {"training": 54, "held_out": 6}

    write(source, 60, changed="w8")
    status, error = go("train.finetune", "--out", out, "--resume")
    assert (status, error) == (
        2,
        f"error: the data have changed since {out} was started; training: another text; choose another --out, or give the "
        "same data\n",
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
    (out / "config.json").write_text(json.dumps({name: value for name, value in told.items() if name != "data"}))
    assert go("train.finetune", "--out", out, "--resume")[0] == 0  # as earlier versions wrote it


def test_held_out_examples_are_scored_as_in_training(toy_config, trained, tmp_path, capsys):
    flags = ["--checkpoint", trained, "--split", "held_out", "--compute-dtype", "bfloat16", "--out", tmp_path]
    assert command("eval.evaluate", toy_config, *flags) == 2
    assert "was trained with another compute_dtype; use the same values" in capsys.readouterr().err
