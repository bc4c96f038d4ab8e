"""Runs a command on several processes of this machine, one device each, and watches over them.

python -m eval.launch -n 2 -- eval.sweep configs/X.py [flags]
    -> what the processes print, with their number in front; process 0 is the terminal
python -m eval.launch -n 2 -- train.finetune configs/X.py --training.data 1 [flags]

When a process fails, stops answering or never comes, all others are ended, and the last line says which one it was
and what happened.
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
"""A process that has given no sign so long after its start never came."""

SILENT_SECONDS = 10.0
"""A process that has given no sign for so long has stopped answering."""

GRACE_SECONDS = 5.0
"""Between asking the processes to end, and ending them."""

STOP_SECONDS = 60.0
"""After Ctrl-C, how long the processes may take to save what they have."""


@dataclass
class Rank:
    """A process under watch.

    Attributes:
      number: 0 is the terminal.
      process: with its output in a pipe.
      beats: the end of the pipe from which its signs of life are read.
      heard: when the last one came, by the clock `time.monotonic`; None before the first.
    """

    number: int
    process: subprocess.Popen
    beats: int
    started: float
    heard: float | None = None
    rest: dict[int, bytes] = field(default_factory=dict)

    def trouble(self, come: float, silent: float) -> str | None:
        """What is wrong with it, if anything; `come` and `silent` are those of `supervise`."""
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
    """Runs one command for each rank until all have ended well or one has not; then none of them is left.

    Args:
      commands: "{beats}" in them stands for the file descriptor on which a rank gives signs of life.
      come: seconds from its start after which a rank that has given none never came.
      silent: seconds after its last one after which a rank has stopped answering.

    Returns:
      The exit status: 0 if all ended well, 130 after Ctrl-C, else 1, after a line that names the rank
      and what happened.
    """
    ranks = [_start(i, command) for i, command in enumerate(commands)]
    interrupted: list[float] = []

    def interrupt(number, frame):
        interrupted.append(time.monotonic())
        for rank in ranks:
            _signal(rank, signal.SIGKILL if len(interrupted) > 1 else signal.SIGINT)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with selectors.DefaultSelector() as selector:
            for rank in ranks:
                for stream in (rank.process.stdout, rank.process.stderr):
                    assert stream is not None
                    os.set_blocking(stream.fileno(), False)
                    selector.register(stream, selectors.EVENT_READ, (rank, stream.fileno()))
                selector.register(rank.beats, selectors.EVENT_READ, (rank, None))
            said = _watch(ranks, selector, interrupted, lambda rank: rank.trouble(come, silent))
            _end(ranks)
            _forward(selector, 0)
            for rank in ranks:
                for descriptor in list(rank.rest):
                    _print(rank, descriptor, b"\n" if rank.rest[descriptor] else b"")
    finally:
        _end(ranks)
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupted:
        return 130
    if said:
        print(f"launch: {said}; all processes are ended", file=sys.stderr, flush=True)
    return 1 if said else 0


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
        if troubles := [(rank, said) for rank in ranks if (said := trouble(rank))]:
            # of several, the one that others could not have caused by its end
            rank, said = min(
                troubles, key=lambda one: ("killed" not in one[1], one[1].startswith("failed"), one[0].number)
            )
            return f"process {rank.number} {said}"
    failed = next(((rank.number, said) for rank in ranks if not interrupted and (said := trouble(rank))), None)
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
    """Prints what the ranks have printed, and takes note of their signs of life."""
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
    """Whole lines, with the rank in front; what a progress bar draws over itself ends a line too."""
    text = rank.rest.pop(descriptor, b"") + read
    *lines, rank.rest[descriptor] = text.replace(b"\r", b"\n").split(b"\n")
    assert rank.process.stdout is not None
    to = sys.stdout if descriptor == rank.process.stdout.fileno() else sys.stderr
    for line in lines:
        if line.strip():
            print(f"[{rank.number}] {line.decode(errors='replace')}", file=to, flush=True)


def _signal(rank: Rank, number: int) -> None:
    """To a rank and whatever it has started."""
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


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def own_cores() -> list[int]:
    """The cores that this process may use; none where that can't be told."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def commands(
    num_processes: int, module: str, arguments: Sequence[str], port: int, host: str = "127.0.0.1"
) -> list[list[str]]:
    """The command of every rank, each on a core of its own as long as there are enough; they meet at `host`."""
    cores = own_cores()
    join = ["--coordinator", f"{host}:{port}", "--num-processes", str(num_processes)]
    start = [sys.executable, "-m", "eval.launching.rank", "{beats}"]
    return [
        [*start, str(cores[i % len(cores)]) if cores else "-", module, *arguments, *join, "--process-id", str(i)]
        for i in range(num_processes)
    ]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("eval.launch", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, required=True, metavar="P", help="processes, one device each")
    parser.add_argument("--port", type=int, help="on which the processes meet; a free one by default")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- MODULE ...", help="such as eval.sweep CONFIG")
    said = parser.parse_args(argv)
    words = said.command[1:] if said.command[:1] == ["--"] else said.command
    if said.n < 1 or not words:
        parser.error("give -n of 1 or more, and a command after --, such as eval.sweep configs/bert_newsgroups.py")
    return supervise(commands(said.n, words[0], words[1:], said.port or free_port()))


if __name__ == "__main__":
    try:
        try:
            sys.exit(main(sys.argv[1:]))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # nobody reads it any more, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
