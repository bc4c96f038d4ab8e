"""Other processes: started, waited for, and ended with what they have started."""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

from helpers.paths import ROOT

GONE_SECONDS = 30

PATHS = (ROOT, ROOT / "tests", ROOT / "tests" / "helpers" / "without_torch")
"""Where other processes look for modules."""

MARK = "PRISM_JAX_TEST"


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS)), "JAX_PLATFORMS": "cpu"} | more


@contextlib.contextmanager
def started(*words, cwd: Path = ROOT, **more: str) -> Iterator[subprocess.Popen]:
    """Python with these arguments. Whatever happens, nothing that it has started is left."""
    mark, pipe = uuid.uuid4().hex, subprocess.PIPE
    command = [sys.executable, *map(str, words)]
    where = environment(**{MARK: mark}, **more)
    with subprocess.Popen(command, cwd=cwd, env=where, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            for one in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    if one.environ().get(MARK) == mark:
                        one.kill()


def finish(process: subprocess.Popen, seconds: float = 240) -> subprocess.CompletedProcess:
    stdout, stderr = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def launch(*words, **more: str) -> subprocess.CompletedProcess:
    with started("-m", "eval.launch", *words, **more) as process:
        return finish(process)


def wait_for(path: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"no {path.name} in {seconds} seconds"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [one.pid for one in psutil.Process(pid).children()]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
