"""Progress of long work: a bar on a terminal, lines in a file."""

import contextlib
import os
import pty
import re
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.command import command

from prism_jax import progress
from prism_jax.progress import Progress, growing, say

Shown = Callable[[], str]
"""Returns all that was written to stderr."""


@contextlib.contextmanager
def terminal(folder: Path) -> Iterator[Shown]:
    """A terminal as stderr."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    termios.tcsetwinsize(slave, (24, 80))
    written = bytearray()

    def shown() -> str:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(master, 4096):
                written.extend(chunk)
        return written.decode()

    with os.fdopen(slave, "w") as stderr, contextlib.redirect_stderr(stderr):
        yield shown
    os.close(master)


@contextlib.contextmanager
def file(folder: Path) -> Iterator[Shown]:
    """A file as stderr."""
    path = folder / "stderr.txt"
    with path.open("w") as stderr, contextlib.redirect_stderr(stderr):
        yield path.read_text


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "WATCH_SECONDS", 0.01)


both = pytest.mark.parametrize("kind", [terminal, file], ids=["terminal", "file"])


def test_a_file_has_a_line_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "LINE_SECONDS", 30.0)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with Progress(total=40, initial=10, desc="training", unit="step", leave=True) as steps:
        for now[0], step, loss in ((30, 11, 0.5), (59, 12, 0.4), (60, 13, 0.25)):
            steps.set_postfix_str(f"loss={loss}", refresh=False)
            steps.update(step - steps.n)
            Progress.write("a record")
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "training: 11/40 [00:30<14:30, 30.00s/step, loss=0.5]",
        "training: 13/40 [01:00<09:00, 20.00s/step, loss=0.25]",
    ]
    assert printed.out == "a record\n" * 3


@both
def test_other_processes_show_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with kind(tmp_path) as shown:
        assert list(Progress(range(3))) == [0, 1, 2]
        say("reading")
        assert shown() == ""


@both
def test_slow_work_is_named_before_it_begins(kind, toy_config, trained, tmp_path):
    flags = ["--checkpoint", trained, "--exchange", "isolated_parts", "--num-parts", 3, "--out", tmp_path / "out"]
    with kind(tmp_path) as shown:
        assert command("eval.evaluate", toy_config, *flags) == 0
        assert re.match(rf"reading data: toy, test\r?\nreading weights: {trained}\r?\n", shown()), shown()


@both
def test_a_folder_that_grows_is_watched(kind, tmp_path):
    folder = tmp_path / "asset"
    folder.mkdir()
    with kind(tmp_path) as shown:
        with growing(folder, 4000, "tiny"):
            for i in (1, 2, 3):
                (folder / str(i)).write_bytes(bytes(1000))
                until = time.monotonic() + 20
                while f"{i}.00k/4.00k" not in shown():
                    assert time.monotonic() < until, shown()
                    time.sleep(0.01)
        if kind is file:
            assert re.fullmatch(r"(tiny: \d\.00k/4\.00k \[00:\d\d<00:\d\d, .*B/s\]\n){3}", shown())


@both
def test_a_command_shows_its_progress(kind, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.txt").write_text("Once upon a time there was a king.\n" * 20)
    flags = ["--dataset", "text", "--data-source", tmp_path / "texts", "--vocab-size", 260]
    with kind(tmp_path) as shown:
        assert command("train.tokenizer", *flags, "--out", tmp_path / "out") == 0
        form = r"texts: 1/1 \[.*text.*\]\n" if kind is file else r".*\rtexts: .*0%\|.*\| 0/1 \[.*"
        assert re.fullmatch(form, shown(), flags=re.DOTALL), shown()
