"""A network between two processes of this machine, of a known rate and delay.

Each process lives in network, mount and host-name namespaces of its own, which only its keeper holds: a small process
that ends with the one that made it. The kernel removes namespaces and interfaces with the last process in them, so
nothing can stay behind, whatever ends the run. Linux only; needs root, or user namespaces.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prism_jax.errors import InputError, RunError, one_line

DEVICE = "prism0"
"""The interface of each end."""

ADDRESSES = ("10.77.0.1", "10.77.0.2")
MTU = 1500
BURST_BYTES, QUEUE = 1600, "400ms"
"""Of the token bucket. A burst larger than a message would let it through free."""

LADDER_BYTES = (1_000, 10_000, 30_000, 100_000, 400_000)
LADDER_ROUNDS = 5
LADDER_PORT = 20077
LADDER_SECONDS = 60.0
"""The longest that an end waits for the other."""

NEEDED = ("ip", "tc", "unshare", "nsenter", "mount", "hostname")
TUN = "/dev/net/tun"
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
OFFER = "leave --rates and --rtts out to measure over loopback"


@dataclass(frozen=True)
class Keeper:
    """Holds the namespaces of one end, until its input is closed.

    Attributes:
      process: ends with the process that started it.
    """

    process: subprocess.Popen[bytes]

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` at this end."""
        enter = ["nsenter", "--target", str(self.process.pid), "--net", "--mount", "--uts", f"--wd={os.getcwd()}"]
        return [*enter, *command]

    def run(self, *words: str) -> None:
        """Runs a command at this end.

        Raises:
          RunError: if it fails.
        """
        done = subprocess.run(self.inside(words), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"{' '.join(words)} failed: {one_line(done.stderr)}; {OFFER}")


def rate_of(text: str) -> float:
    """Bits a second, from a text such as 50mbit.

    Raises:
      InputError: for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", text)
    rate = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 1 <= rate <= 1e15:
        raise InputError(f"a rate is {text[:80]!r}; give a number with its unit, such as 50mbit (kbit, mbit or gbit)")
    return rate


def way_in(*, delay: bool) -> list[str]:
    """What goes before a command that may make namespaces: nothing for root,
    else what makes a user namespace of its own.

    Args:
      delay: whether there will be links with a round-trip time.

    Raises:
      InputError: where neither is to be had.
    """
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        raise InputError(f"shaping needs {', '.join(missing)} (Linux: iproute2, util-linux); {OFFER}")
    if delay and not os.access(TUN, os.R_OK | os.W_OK):
        raise InputError(f"a delay needs {TUN}, which this process may not open; leave --rtts out")
    make = ["--net", "--mount", "--uts"]
    if _succeeds("unshare", *make, "true"):
        return []
    as_root = ["unshare", "--user", "--map-root-user"]
    if not _succeeds(*as_root, *make, "true"):
        raise InputError(f"shaping needs root or user namespaces, and this process may make neither; {OFFER}")
    return as_root


def enter(before: Sequence[str]) -> None:
    """Begins this process again behind the words of `way_in`, if there are any."""
    if before:
        sys.stdout.flush()
        os.execvp(before[0], [*before, sys.executable, *sys.orig_argv[1:]])


@contextmanager
def joined(rtt_ms: float) -> Iterator[tuple[Keeper, Keeper]]:
    """Two ends joined by a link without limit of rate, with a round-trip time of `rtt_ms` on top of its own.

    Without delay the link is a veth pair, else two TUN devices with a relay between them, see `eval.links.relay`.

    Raises:
      RunError: if it can't be made.
    """
    keepers: list[Keeper] = []
    relay = None
    try:
        for i in range(2):
            keepers.append(_keeper(i))
        first, second = (str(keeper.process.pid) for keeper in keepers)
        if rtt_ms:
            relay = _start(
                [sys.executable, "-m", "eval.links.relay", first, second, DEVICE, str(rtt_ms / 2)], "no relay"
            )
        else:
            pair = ["type", "veth", "peer", "name", DEVICE, "netns", second]
            keepers[0].run("ip", "link", "add", DEVICE, "netns", first, *pair)
        for keeper, own in zip(keepers, ADDRESSES, strict=True):
            keeper.run("ip", "address", "add", f"{own}/24", "dev", DEVICE)
            keeper.run("ip", "link", "set", DEVICE, "mtu", str(MTU), "up")
        yield keepers[0], keepers[1]
    finally:
        for process in (relay, *(keeper.process for keeper in keepers)):
            if process is not None:
                process.communicate()


def shape(rate: str) -> None:
    """Limits what this end sends. Called at both ends."""
    bucket = ["tbf", "rate", rate, "burst", str(BURST_BYTES), "latency", QUEUE]
    words = ["tc", "qdisc", "replace", "dev", DEVICE, "root", *bucket]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{' '.join(words)} failed: {one_line(done.stderr)}; {OFFER}")


def counters() -> tuple[int, int] | None:
    """Bytes sent and received by the interface of this end, headers included;
    None in a process that is at no end of such a link."""
    counted = Path("/proc/self/net/dev")
    for line in counted.read_text().splitlines() if counted.exists() else []:
        name, _, numbers = line.partition(":")
        if name.strip() == DEVICE:
            received, sent = (int(numbers.split()[i]) for i in (0, 8))
            return sent, received
    return None


def ladder(end: int) -> list[dict]:
    """Messages of growing size from end 0 to end 1, each answered by a byte: proves rate and delay.
    Called at both ends.

    Returns:
      For each size the median of the seconds until the answer; at end 1 nothing.
    """
    try:
        return _send_up() if end == 0 else _answer()
    except OSError as error:
        raise RunError(f"the link carries nothing: {error}") from error


def _answer() -> list[dict]:
    with socket.create_server((ADDRESSES[1], LADDER_PORT)) as server:
        server.settimeout(LADDER_SECONDS)
        with server.accept()[0] as link:
            for size in LADDER_BYTES:
                for _ in range(LADDER_ROUNDS + 1):
                    _receive(link, size)
                    link.sendall(b".")
    return []


def _send_up() -> list[dict]:
    rows = []
    with _connect() as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for size in LADDER_BYTES:
            seconds, before = [], _sent()
            for _ in range(LADDER_ROUNDS + 1):
                started = time.perf_counter()
                link.sendall(bytes(size))
                _receive(link, 1)
                seconds.append(time.perf_counter() - started)
            counted = _sent() - before
            rows.append(
                {
                    "bytes": size,
                    "seconds": float(np.median(seconds[1:])),
                    "bytes_counted": counted / (LADDER_ROUNDS + 1),
                }
            )
    return rows


def measured(rows: Sequence[dict]) -> dict[str, float]:
    """What a ladder shows: the rate, from its largest message, and the round-trip time, from its smallest."""
    first, *_, last = rows
    rate = 8 * (last["bytes_counted"] - first["bytes_counted"]) / (last["seconds"] - first["seconds"])
    return {"rtt_ms": 1e3 * (first["seconds"] - 8 * first["bytes_counted"] / rate), "rate_bits_per_second": rate}


def _keeper(number: int) -> Keeper:
    begin = 'mount --bind "$0" /etc/hosts && hostname "$1" && ip link set lo up && echo ready && exec cat >&2'
    lines = ["127.0.0.1 localhost", *(f"{address} prism{i}" for i, address in enumerate(ADDRESSES))]
    with tempfile.NamedTemporaryFile("w", prefix="prism_jax_hosts_") as hosts:  # once mounted it needs no name
        hosts.write("\n".join(lines) + "\n")
        hosts.flush()
        spaces = ["unshare", "--net", "--mount", "--uts"]
        return Keeper(_start([*spaces, "sh", "-c", begin, hosts.name, f"prism{number}"], "no namespace"))


def _start(command: Sequence[str], without: str) -> subprocess.Popen[bytes]:
    """A process that has said that it is ready, ends when its input does, and is not reached by Ctrl-C."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        process.kill()
        said = process.communicate()[1].decode().strip()
        raise RunError(f"{without} can be made: {said[-200:]}; {OFFER}")
    return process


def _succeeds(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _sent() -> int:
    counted = counters()
    assert counted is not None
    return counted[0]


def _connect() -> socket.socket:
    until = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection((ADDRESSES[1], LADDER_PORT), timeout=LADDER_SECONDS)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _receive(link: socket.socket, size: int) -> None:
    while size:
        read = link.recv(min(size, 1 << 16))
        if not read:
            raise RunError("the other end of the link is gone")
        size -= len(read)
