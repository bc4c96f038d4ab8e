"""The folders that commands write: whose they are, when they are made, and what a refusal or a failure leaves."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from helpers.command import command
from helpers.process import environment

from eval.scoring.measure import Measured
from eval.sweeping import store
from prism_jax import data, weights
from prism_jax.assets import hub
from prism_jax.cli import entry
from prism_jax.errors import InputError, RunError
from prism_jax.experiments import checkpoint, exchange_arrays
from prism_jax.folders import LOCK, check_empty, held, new_folder, whole, write

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def started(program: str, *argv) -> subprocess.Popen:
    """A process that runs `main` of a program as an entry point does."""
    words = [
        sys.executable,
        "-c",
        f"import sys\nfrom prism_jax.cli import entry\n{program}\nentry.run(main, sys.argv[1:])",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*words, *map(str, argv)], env=environment(), **pipes)


HOLDS = """
import time
def main(argv):
    print(entry.output_folder(argv[0]), flush=True)
    time.sleep(600)
"""


@pytest.mark.process
def test_a_folder_is_one_command_s_until_its_process_is_gone(toy_config, tmp_path, capsys):
    out = tmp_path / "new" / "run"
    with started(HOLDS, out) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == f"{out}\n"
            assert command("train.finetune", toy_config, "--out", out) == 2
            assert capsys.readouterr().err == (
                f"error: {out} is in use by process {holder.pid} on {socket.gethostname()}; wait until that has ended, "
                "or choose "
                "another folder\n"
            )
        finally:
            holder.send_signal(signal.SIGKILL)
    check_empty(out)  # what a killed process leaves does not count
    with pytest.raises(SystemExit, match="2"):
        entry.run(lambda argv: refused(entry.output_folder(argv[0])), [str(out)])
    assert not list(out.iterdir())


def refused(folder: Path):
    assert [path.name for path in folder.iterdir()] == [LOCK]
    raise InputError("no")


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("train.finetune", ["CONFIG"]),
        ("eval.sweep", ["CONFIG", "--parts", "2", "--segments", "1"]),
        ("eval.evaluate", ["CONFIG"]),
        ("eval.blocks", ["CONFIG"]),
        ("eval.latency", ["CONFIG", "-n", "2", "--segments", "1"]),
        ("eval.generate", ["configs/gpt2.py", "--prompt", "w1"]),
        ("eval.scale", ["--lengths", "256"]),
        ("eval.speed", []),
        ("eval.wires", []),
        ("train.calibrate", ["CONFIG", "--exchanges", "codebooks:8:4:all_gather"]),
        ("eval.paper", []),
        ("train.tokenizer", ["--dataset", "tales", "--vocab-size", "300"]),
    ],
)
def test_every_command_asks_for_its_folder_before_anything_slow(
    module, flags, toy_config, tmp_path, monkeypatch, capsys
):
    for slow in (data, hub, weights):
        monkeypatch.setattr(slow, "load" if slow is not hub else "resolve", None)
    if module == "eval.latency" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    words = [toy_config if word == "CONFIG" else word for word in flags]
    with FileLock(tmp_path / LOCK):
        (tmp_path / LOCK).write_text("process 1 on another.host")
        assert command(module, *words, "--out", tmp_path) == 2
        assert f"error: {tmp_path} is in use by process 1 on another.host; wait" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    file, long = tmp_path / "file", "x" * 300
    file.write_text("")
    deep = "/".join(["y" * 200] * 19)
    for where, reason in (
        (file, "Not a directory"),
        (file / "run", "Not a directory"),
        (tmp_path / "a" / long, "too long"),
    ):
        assert command(module, *words, "--out", where) == 2
        (printed,) = capsys.readouterr().err.splitlines()
        assert printed.startswith("error: can't write to ")
        assert reason in printed
    assert command(module, *words, "--out", tmp_path / deep) == 2
    assert "too long" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, "file"]


def test_a_folder_that_is_read_only_is_refused(toy_config, tmp_path, monkeypatch, capsys):
    def read_only(self, *args, **kwargs):
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert command("eval.evaluate", toy_config, "--out", tmp_path / "out") == 2
    printed = f"error: can't write to '{tmp_path}/out': Read-only file system; choose another folder\n"
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize(
    ("module", "flag"),
    [
        ("train.finetune", "--start"),
        ("eval.sweep", "--base"),
        ("eval.sweep", "--tuned"),
        ("eval.sweep", "--control"),
        ("eval.sweep", "--checkpoints"),
        ("eval.evaluate", "--checkpoint"),
        ("eval.blocks", "--checkpoint"),
        ("eval.latency", "--base"),
    ],
)
def test_a_wrong_run_is_refused_before_anything_is_loaded(
    module, flag, toy_config, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(data, "load", None)
    monkeypatch.setattr(weights, "load", None)
    more = {"eval.sweep": ["--parts", "2", "--segments", "1"], "eval.latency": ["-n", "2", "--segments", "1"]}
    more = [*more.get(module, []), "--out", tmp_path / "out"]
    if module == "eval.latency" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    broken = tmp_path / "broken"
    (broken / "checkpoints" / "3").mkdir(parents=True)
    (broken / "config.json").write_text("{")
    for source, message in (
        ("nowhere", "no checkpoints in nowhere; give the --out folder of a train.finetune run"),
        (f"{trained}@7", f"no checkpoint of step 7 in {trained}; there are "),
        (broken, f"{broken}/config.json can't be read"),
        ("z" * 300, "File name too long"),
    ):
        assert command(module, toy_config, flag, source, *more) == 2
        (printed,) = capsys.readouterr().err.splitlines()
        assert message in printed
    other = [toy_config, "--num-tokens", "17", flag, trained, *more]
    assert command(module, *other) == 2
    assert "was trained with different num_tokens; use the same values" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_length_beyond_the_model_is_refused_before_anything_is_loaded(toy_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", None)
    monkeypatch.setattr(weights, "load", None)
    assert command("eval.sweep", toy_config, "--lengths", 18, 41, "--out", tmp_path / "out") == 2
    assert "a sequence of 41 tokens, but the position table has 40 rows" in capsys.readouterr().err


def test_what_a_later_refusal_leaves_is_nothing(toy_config, tmp_path, capsys):
    flags = ["--dataset", "imdb", "--out", tmp_path / "a" / "b" / "out"]
    assert command("eval.evaluate", toy_config, *flags) == 2
    assert "unknown dataset 'imdb'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_is_made_by_way_of_a_new_one(tmp_path):
    with held(str(tmp_path / "new" / ".." / "out" / "a")):
        (tmp_path / "out" / "a" / "results.json").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


SAVES = """
import os, resource
from pathlib import Path
import numpy as np
from prism_jax.experiments import saving
class Data:
    def get_state(self):
        return {"next_index": 1}
def main(argv):
    with saving.saving(Path(argv[0])) as manager:
        saving.save(manager, 1, {"x": np.arange(9.0)}, Data(), {"score": 1.0}, "recipe")
        saving.finish(manager)
        FAILS
        saving.save(manager, 2, {"x": np.random.default_rng(0).normal(size=100_000)}, Data(), {"score": 1.0}, "recipe")
        saving.finish(manager)
"""
NO_FOLDER = """makedirs = os.makedirs
        def full(path, *args, **kwargs):
            if "data.orbax" in path:
                raise OSError(28, "No space left on device", path)
            makedirs(path, *args, **kwargs)
        os.makedirs = full"""
"""After it, threads of Orbax wait for a folder that never comes."""


@pytest.mark.process
@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))", "File too large"),
        (NO_FOLDER, "No space left on device"),
    ],
)
def test_a_checkpoint_that_can_not_be_saved_ends_the_run_at_once(fails, reason, tmp_path):
    with started(SAVES.replace("FAILS", fails), tmp_path) as process:
        printed = process.communicate(timeout=120)[1]
    assert printed == (
        f"error: a checkpoint can't be saved in {tmp_path}/checkpoints: {reason}; those of steps 1 are there; "
        "when this is "
        "mended, go on with --resume\n"
    )
    assert process.returncode == 1
    with entry._at_end:
        manager = checkpoint.open_manager(tmp_path)
        assert checkpoint.steps_in(tmp_path) == list(manager.all_steps()) == [1]
        np.testing.assert_array_equal(checkpoint._restore(manager, 1)["state"]["x"], np.arange(9.0))
        manager.close()


def test_what_the_system_refuses_is_one_line(tmp_path, capsys):
    def fails(argv):
        write(Path(argv[0]) / "results.json", "x")

    with pytest.raises(SystemExit, match="1"):
        entry.run(fails, [str(tmp_path / "gone")])
    assert capsys.readouterr().err == f"error: {tmp_path}/gone/results.json: No such file or directory\n"


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write(path, json.dumps(1))

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device: '.*results.json'"):
        write(path, json.dumps(22))
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_can_not_be_read_is_named_and_not_the_one_to_write(tmp_path):
    gone, path = tmp_path / "gone", tmp_path / "copy"
    with pytest.raises(FileNotFoundError, match=f"'{gone}'"), whole(path) as partial:
        partial.write_bytes(gone.read_bytes())
    with pytest.raises(FileNotFoundError, match=f"'{gone}'"), new_folder(path) as folder:
        (folder / "copy").write_bytes(gone.read_bytes())
    with pytest.raises(RunError, match=f"{path} could not be written: .*No such file"), new_folder(path) as folder:
        (folder / "no" / "copy").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_files():
    """No file of this process may grow beyond 4 KiB, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_tensors_are_written_whole_or_not_at_all(small_files, tmp_path):
    path = tmp_path / exchange_arrays.FILE
    exchange_arrays.save(path, {"power": {"block_0": {"weight": np.zeros(2)}}}, "asset:minilm")
    before = path.read_bytes()
    with pytest.raises(RunError, match=f"{path} could not be written: .*File too large.*; make room, or choose"):
        exchange_arrays.save(path, {"power": {"block_0": {"weight": np.zeros(10_000)}}}, "asset:minilm")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_outcomes_of_a_record_are_written_whole_or_not_at_all(small_files, tmp_path):
    rows = store.Store(tmp_path)
    rows.save("key", Measured({}, np.arange(3)))
    with pytest.raises(OSError, match=r"key\.npy"):
        rows.save("key", Measured({}, np.arange(10_000)))
    assert np.load(tmp_path / "key.npy").tolist() == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.json", "key.npy"]
