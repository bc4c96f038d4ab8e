"""Runs a command on several processes of this machine, a device each, and monitors them.

python -m eval.launch -n 2 -- eval.sweep configs/X.py [flags]
    -> the output of the processes, with their number in front; process 0 gets the results
python -m eval.launch -n 2 -- train.finetune configs/X.py --training.data 1 [flags]

When a process fails, stops responding or does not start, all others are ended. The last line names the process and the
reason.
"""

import argparse
import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from eval.launching.rank import BEAT_SECONDS

COME_SECONDS = 15.0
"""Seconds after its start in which a process must give its first sign of life."""

SILENT_SECONDS = 10.0
"""Seconds without a sign of life after which a process counts as not responding."""

GRACE_SECONDS = 5.0
"""Seconds between asking the processes to end and killing them."""

STOP_SECONDS = 60.0
"""Seconds that the processes have after Ctrl-C to save their state."""


@dataclass
class Rank:
    """A monitored process.

    Attributes:
      number: number of the process; 0 gets the results.
      process: the process. Its output goes to pipes.
      beats: descriptor for reading its signs of life.
      heard: time of the last sign of life, by `time.monotonic`; None before the first.
    """

    number: int
    process: subprocess.Popen
    beats: int
    started: float
    heard: float | None = None
    rest: dict[int, bytes] = field(default_factory=dict)

    def trouble(self, come: float, silent: float) -> str | None:
        """Returns a description of a fault, or None. `come` and `silent` are those of `supervise`."""
        status, now = self.process.poll(), time.monotonic()
        if status is not None and status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        if status:
            return f"failed with status {status}"
        if status == 0:
            return None
        if self.heard is None and now - self.started > come:
            return f"never came: no sign of life in {come:g} seconds"
        if self.heard is not None and now - self.heard > silent:
            return f"stopped answering: no sign of life for {silent:g} seconds"
        return None


def supervise(commands: Sequence[Sequence[str]], *, come: float = COME_SECONDS, silent: float = SILENT_SECONDS) -> int:
    """Runs one command for each rank until all have succeeded or one has failed. Then ends all of them.

    Args:
      commands: the commands. "{beats}" in them stands for the file descriptor for signs of life.
      come: seconds after its start in which a rank must give its first sign of life.
      silent: seconds without a sign of life after which a rank counts as not responding.

    Returns:
      The exit status: 0 on success, 130 after Ctrl-C or SIGTERM, else 1, after printing a line with the rank and the
      reason.
    """
    ranks = [_start(i, command) for i, command in enumerate(commands)]
    interrupted: list[float] = []

    def interrupt(number, frame):
        interrupted.append(time.monotonic())
        for rank in ranks:
            _signal(rank, signal.SIGKILL if len(interrupted) > 1 else signal.SIGINT)

    old_handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with selectors.DefaultSelector() as selector:
            for rank in ranks:
                for stream in (rank.process.stdout, rank.process.stderr):
                    assert stream is not None
                    os.set_blocking(stream.fileno(), False)
                    selector.register(stream, selectors.EVENT_READ, (rank, stream.fileno()))
                selector.register(rank.beats, selectors.EVENT_READ, (rank, None))
            fault = _watch(ranks, selector, interrupted, lambda rank: rank.trouble(come, silent))
            _end(ranks)
            _forward(selector, 0)
            for rank in ranks:
                for descriptor in list(rank.rest):
                    _print(rank, descriptor, b"\n" if rank.rest[descriptor] else b"")
    finally:
        _end(ranks)
        for rank in ranks:
            _close(rank)
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
    if interrupted:
        return 130
    if fault:
        print(f"launch: {fault}; all processes are ended", file=sys.stderr, flush=True)
    return 1 if fault else 0


def _watch(
    ranks: list[Rank],
    selector: selectors.BaseSelector,
    interrupted: list[float],
    trouble: Callable[[Rank], str | None],
) -> str | None:
    while any(rank.process.poll() is None for rank in ranks):
        _forward(selector, BEAT_SECONDS / 4)
        if interrupted:
            if time.monotonic() - interrupted[0] > STOP_SECONDS:
                return None
            continue
        if troubles := [(rank, fault) for rank in ranks if (fault := trouble(rank))]:
            # reports the rank whose fault is least likely to be caused by the end of another
            rank, fault = min(
                troubles, key=lambda item: ("killed" not in item[1], item[1].startswith("failed"), item[0].number)
            )
            return f"process {rank.number} {fault}"
    failed = next(((rank.number, fault) for rank in ranks if not interrupted and (fault := trouble(rank))), None)
    return failed and f"process {failed[0]} {failed[1]}"


def _start(number: int, command: Sequence[str]) -> Rank:
    read, write = os.pipe()
    words = [word.replace("{beats}", str(write)) for word in command]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(write,), start_new_session=True
    )
    os.close(write)
    os.set_blocking(read, False)
    return Rank(number, process, read, time.monotonic())


def _forward(selector: selectors.BaseSelector, wait: float) -> None:
    """Prints the output of the ranks, and records their signs of life."""
    for key, _ in selector.select(wait):
        rank, descriptor = key.data
        try:
            read = os.read(key.fd, 1 << 16)
        except BlockingIOError:
            continue
        if not read:
            selector.unregister(key.fileobj)
        elif descriptor is None:
            rank.heard = time.monotonic()
        else:
            _print(rank, descriptor, read)


def _print(rank: Rank, descriptor: int, read: bytes) -> None:
    """Prints complete lines, with the rank in front. A carriage return of a progress bar also ends a line."""
    text = rank.rest.pop(descriptor, b"") + read
    *lines, rank.rest[descriptor] = text.replace(b"\r", b"\n").split(b"\n")
    assert rank.process.stdout is not None
    to = sys.stdout if descriptor == rank.process.stdout.fileno() else sys.stderr
    for line in lines:
        if line.strip():
            print(f"[{rank.number}] {line.decode(errors='replace')}", file=to, flush=True)


def _signal(rank: Rank, number: int) -> None:
    """Sends a signal to a rank and to all processes that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(rank.process.pid, number)


def _end(ranks: list[Rank]) -> None:
    running = [rank for rank in ranks if rank.process.poll() is None]
    for rank in running:
        _signal(rank, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until and any(rank.process.poll() is None for rank in running):
        time.sleep(0.05)
    for rank in ranks:
        _signal(rank, signal.SIGKILL)
        rank.process.wait()


def _close(rank: Rank) -> None:
    """Closes this process's ends of the pipes."""
    os.close(rank.beats)
    for stream in (rank.process.stdout, rank.process.stderr):
        assert stream is not None
        stream.close()


def free_port() -> int:
    """Returns a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def own_cores() -> list[int]:
    """Returns the cores that this process may use; an empty list if unknown."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def commands(
    num_processes: int, module: str, arguments: Sequence[str], port: int, host: str = "127.0.0.1"
) -> list[list[str]]:
    """Returns the command of each rank. Each gets its own core if there are enough. The ranks meet at `host`."""
    cores = own_cores()
    join = ["--coordinator", f"{host}:{port}", "--num-processes", str(num_processes)]
    start = [sys.executable, "-m", "eval.launching.rank", "{beats}"]
    return [
        [*start, str(cores[i % len(cores)]) if cores else "-", module, *arguments, *join, "--process-id", str(i)]
        for i in range(num_processes)
    ]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("eval.launch", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, required=True, metavar="P", help="processes, a device each")
    parser.add_argument("--port", type=int, help="on which the processes meet; a free one by default")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- MODULE ...", help="such as eval.sweep CONFIG")
    flags = parser.parse_args(argv)
    words = flags.command[1:] if flags.command[:1] == ["--"] else flags.command
    if flags.n < 1 or not words:
        parser.error("give -n of 1 or more, and a command after --, such as eval.sweep configs/bert_newsgroups.py")
    return supervise(commands(flags.n, words[0], words[1:], flags.port or free_port()))


if __name__ == "__main__":
    try:
        try:
            sys.exit(main(sys.argv[1:]))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe, for example `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
