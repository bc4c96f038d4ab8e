"""How a command ends when nobody reads what it prints."""

import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT
from helpers.process import environment

from prism_jax.cli import entry
from prism_jax.errors import InputError

PRINTS_ON = """
import sys
from prism_jax.cli.entry import run
from prism_jax.errors import InputError

def main(argv):
    for _ in range(int(argv[0])):
        print("x" * 1000)
    raise InputError("a wrong value")

run(main, sys.argv[1:])
"""


def without_reader(*argv: str, both: bool = False) -> tuple[int, str]:
    """The exit status of `python argv` and what it says on stderr,
    where its output (or `both`) goes to a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, *argv],
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            env=environment(PYTHONUNBUFFERED=""),
            cwd=ROOT,
            text=True,
            timeout=120,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.mark.process
@pytest.mark.parametrize(
    ("argv", "both", "expected"),
    [
        (["-m", "eval.sweep", "--help"], False, (141, "")),
        (["-m", "eval.launch", "--help"], False, (141, "")),
        (["-u", "-c", PRINTS_ON, "100"], True, (141, "")),
        (["-c", PRINTS_ON, "1"], False, (2, "error: a wrong value\n")),
    ],
    ids=["help", "launch", "unbuffered, stderr too", "after an error"],
)
def test_a_command_ends_in_silence_when_its_reader_is_gone(argv, both, expected):
    assert without_reader(*argv, both=both) == expected


@pytest.mark.process
@pytest.mark.parametrize(("closed", "printed"), [(1, "error: a wrong value\n"), (2, "")])
def test_a_command_needs_no_stdout_and_no_stderr(closed, printed):
    """As after `>&-`."""
    shell = ["bash", "-c", f'"$0" -c "$1" 1 {closed}>&-', sys.executable, PRINTS_ON]
    done = subprocess.run(shell, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stderr) == (2, printed)


def test_every_command_goes_through_the_same_door():
    """eval.launch alone has a door of its own, which is tested above."""
    sources = {path.stem: path.read_text() for name in ("eval", "train") for path in (ROOT / name).glob("*.py")}
    last_lines = {name: text.splitlines()[-1].strip() for name, text in sources.items() if "__main__" in text}
    assert len(last_lines) > 15
    assert {name for name, line in last_lines.items() if line != "run(main, sys.argv[1:])"} == {"launch"}


def test_another_broken_pipe_is_an_error():
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError), entry.exit_on_broken_pipe():
        os.write(writer, b"x")
    os.close(writer)
    with pytest.raises(InputError, match="wrong"), entry.exit_on_broken_pipe():
        raise InputError("wrong")
