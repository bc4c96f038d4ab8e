"""Runs that are interrupted, or whose files are damaged, go on as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.command import command
from helpers.process import finish, started
from helpers.runs import FULL, PRISM, WHOLE, assert_same_parameters, lines, without_times

from prism_jax.errors import InputError
from prism_jax.experiments import checkpoint
from train.log import Log

AS_HERE = {"JAX_NUM_CPU_DEVICES": "8", "JAX_DEFAULT_MATMUL_PRECISION": "float32"}
"""Another process compiles the same programs as this one."""

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def test_a_run_that_is_done_stays_as_it_is(whole, toy_config, tmp_path, capsys):
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    flags = [*WHOLE, "--out", out, "--resume"]
    assert command("train.finetune", toy_config, *flags) == 0
    printed = capsys.readouterr().out
    assert (
        "trained through segment_means:1 on 3, segment_means:3 on 3; checkpoints chosen by segment_means:8 on 2"
        in printed
    )
    for name in ("result.json", "metrics.jsonl"):
        assert (out / name).read_text() == (whole / name).read_text()
    result = json.loads((out / "result.json").read_text())
    assert result["first_step"] == 0
    assert result["seconds"] > lines(whole)[-1]["seconds"] > 0


def test_a_run_that_goes_on_through_other_exchanges_says_so_once(whole, toy_config, tmp_path, capsys):
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    flags = [*FULL, "--training.evaluate-every", "3", "--out", out, "--resume"]
    flags += ["--training.exchanges", "all_gather", "--training.parts", "2", "3"]
    notes = [
        "note: the run goes on with other training.exchanges than before: segment_means:1 segment_means:3 until now, "
        "all_gather from here on",
        "note: the run goes on with other training.parts than before: 3 until now, 2 3 from here on",
    ]

    def go_on() -> list[str]:
        assert command("train.finetune", toy_config, *flags) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]

    assert go_on() == []  # it is done, and no step is drawn from them
    assert (out / "config.json").read_text() == (whole / "config.json").read_text()
    shutil.rmtree(max((out / "checkpoints").iterdir(), key=lambda path: int(path.name)))
    assert go_on() == notes
    assert json.loads((out / "config.json").read_text())["training"]["exchanges"] == ["all_gather"]
    assert go_on() == []


@pytest.mark.slow
def test_stopped_by_ctrl_c_it_saves_and_goes_on_as_if_never_stopped(whole, toy_config, tmp_path, monkeypatch, capsys):
    real, out = Log.write, tmp_path / "run"

    def stop_at_seven(self, values):
        real(self, values)
        if values["step"] == 7:
            os.kill(os.getpid(), signal.SIGINT)

    flags = [*WHOLE, "--out", out]
    monkeypatch.setattr(Log, "write", stop_at_seven)
    assert command("train.finetune", toy_config, *flags) == 1
    assert "stopped at step 8 of 16, which is saved; go on with --resume" in capsys.readouterr().err
    monkeypatch.setattr(Log, "write", real)
    assert command("train.finetune", toy_config, *flags, "--resume") == 0
    assert_same_parameters(out, whole)
    assert without_times(out) == without_times(whole)


@pytest.mark.slow
@pytest.mark.process
def test_killed_at_any_time_it_goes_on_as_if_never_stopped(whole, toy_config, tmp_path):
    out = tmp_path / "run"
    words = ["-m", "train.finetune", toy_config, *WHOLE, "--out", out]
    for more, kill_at in (((), 4), (("--resume",), 10)):
        with started(*words, *more, **AS_HERE) as process:
            wait_for_step(out, kill_at, process)
            process.kill()
            done = finish(process)
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert command("train.finetune", toy_config, *WHOLE, "--out", out, "--resume") == 0
    assert_same_parameters(out, whole)
    assert without_times(out) == without_times(whole)


def wait_for_step(out: Path, step: int, process: subprocess.Popen, seconds: float = 300) -> None:
    """Until a step is written in the log of another process, or that process has ended."""
    log, until = out / "metrics.jsonl", time.monotonic() + seconds
    while process.poll() is None:
        whole_lines = log.read_text().split("\n")[:-1] if log.exists() else []
        if any(json.loads(line)["step"] >= step for line in whole_lines):
            return
        assert time.monotonic() < until, f"no step {step} in {seconds} seconds"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(whole, toy_config, tmp_path, capsys):
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    for path in (out / "checkpoints" / "16" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    flags = [*WHOLE, "--out", out, "--resume"]
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
    flags = [*WHOLE, "--out", out, "--resume"]
    assert command("train.finetune", toy_config, *flags) == 0
    assert (
        f"passed over: line 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 of {path}, now in {out}/damaged/metrics.jsonl"
        in capsys.readouterr().out
    )
    assert lines(out) == lines(whole)
    assert (out / "damaged" / "metrics.jsonl").read_bytes().split(b"\n")[:-1] == broken
    assert_same_parameters(out, whole)


def _flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def test_a_flipped_bit_is_noticed(whole, toy_config, tmp_path, capsys):
    """Orbax reads most of them without a word. What lies where in its file differs from run to run."""
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    saved = checkpoint.digest_of_state(checkpoint.load(out, 16).params)
    largest = max((out / "checkpoints" / "16" / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content, refusals = largest.read_bytes(), {}
    for position in (len(content) * place // 12 for place in range(1, 12)):
        largest.write_bytes(_flipped(content, position))
        try:
            assert checkpoint.digest_of_state(checkpoint.load(out, 16).params) == saved  # no value lies there
        except InputError as error:
            refusals[position] = str(error)
    assert all(
        "checkpoint 16 in" in error and "is damaged or of another model: " in error for error in refusals.values()
    )
    read_by_orbax = [position for position, error in refusals.items() if "its values are not those" in error]
    assert read_by_orbax
    largest.write_bytes(_flipped(content, read_by_orbax[0]))
    flags = [*WHOLE, "--out", out, "--resume"]
    assert command("train.finetune", toy_config, *flags) == 0
    assert f"passed over: checkpoint 16, now in {out}/damaged/16: " in capsys.readouterr().out
    assert_same_parameters(out, whole)


@pytest.mark.slow
def test_a_checkpoint_of_another_recipe_is_passed_over(whole, toy_config, tmp_path, capsys):
    """Same model, same shapes: only what the run says of itself tells them apart."""
    flags = [*FULL, *PRISM, "--training.epochs", "1", "--training.evaluate-every", "2", "--out", tmp_path / "run"]
    assert command("train.finetune", toy_config, *flags) == 0
    shutil.copytree(whole / "checkpoints" / "16", tmp_path / "run" / "checkpoints" / "16")
    assert command("train.finetune", toy_config, *flags, "--resume") == 0
    assert "is of another run" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["2", "4"]


def test_a_run_is_not_overwritten(whole, toy_config, capsys):
    assert command("train.finetune", toy_config, "--out", whole) == 2
    assert "holds a run already; add --resume to go on with it, or choose another --out" in capsys.readouterr().err
    again = ["--out", whole, "--resume", "--num-tokens", "12", "--training.seed", "3", "--exchange", "all_gather"]
    assert command("train.finetune", toy_config, *again, *FULL) == 2
    assert (
        "was started with different num_tokens, exchange, training.evaluate_every, training.seed"
        in capsys.readouterr().err
    )
