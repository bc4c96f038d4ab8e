"""A network between processes of this machine, whose links have a known rate and delay.

Each process runs in separate network, mount and host-name namespaces. Only its keeper holds them: a small process that
ends with the process that created it. The kernel removes namespaces and interfaces with the last process in them. So
nothing is left behind, however the run ends. Linux only; needs root or user namespaces.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prism_jax.errors import InputError, RunError, one_line

DEVICE = "prism0"
"""Name of the network interface at each end."""

MOST = 254
"""Ends that the addresses allow."""

MTU = 1500
BURST_BYTES, QUEUE = 1600, "400ms"
"""Parameters of the token bucket. A burst larger than a message would let the message pass unlimited."""

NEEDED = ("ip", "tc", "unshare", "nsenter", "mount", "hostname")
TUN = "/dev/net/tun"
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
OFFER = "leave --rates and --rtts out to measure over loopback"


@dataclass(frozen=True)
class Keeper:
    """Holds the namespaces of one end until its input is closed.

    Attributes:
      process: the process, which ends with the one that started it.
    """

    process: subprocess.Popen[bytes]

    def inside(self, command: Sequence[str]) -> list[str]:
        """Returns the command that runs `command` at this end."""
        enter = ["nsenter", "--target", str(self.process.pid), "--net", "--mount", "--uts", f"--wd={os.getcwd()}"]
        return [*enter, *command]

    def run(self, *words: str) -> None:
        """Runs a command at this end.

        Raises:
          RunError: if it fails.
        """
        completed = subprocess.run(self.inside(words), capture_output=True, text=True, check=False)
        if completed.returncode:
            raise RunError(f"{' '.join(words)} failed: {one_line(completed.stderr)}; {OFFER}")


def rate_of(text: str) -> float:
    """Returns the bits a second of a text like 50mbit.

    Raises:
      InputError: if the text is no rate.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", text)
    rate = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 1 <= rate <= 1e15:
        raise InputError(f"a rate is {text[:80]!r}; give a number with its unit, such as 50mbit (kbit, mbit or gbit)")
    return rate


def enter_command(*, relayed: bool) -> list[str]:
    """Returns the words before a command that creates namespaces: none for root, otherwise a command that creates a
    user namespace.

    Args:
      relayed: whether there will be a round-trip time, or more than two ends.

    Raises:
      InputError: if this process has neither right.
    """
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        raise InputError(f"shaping needs {', '.join(missing)} (Linux: iproute2, util-linux); {OFFER}")
    if relayed and not os.access(TUN, os.R_OK | os.W_OK):
        raise InputError(
            f"a delay, or more than two processes, needs {TUN}, which this process may not open; "
            "leave --rtts out, and choose -n 2"
        )
    make = ["--net", "--mount", "--uts"]
    if _succeeds("unshare", *make, "true"):
        return []
    as_root = ["unshare", "--user", "--map-root-user"]
    if not _succeeds(*as_root, *make, "true"):
        raise InputError(f"shaping needs root or user namespaces, and this process may make neither; {OFFER}")
    return as_root


def enter(prefix: Sequence[str]) -> None:
    """Restarts this process with the words of `enter_command` in front, if there are any."""
    if prefix:
        sys.stdout.flush()
        os.execvp(prefix[0], [*prefix, sys.executable, *sys.orig_argv[1:]])


def address(end: int) -> str:
    """Returns the address of an end."""
    return f"10.77.0.{end + 1}"


@contextmanager
def joined(count: int, rtt_ms: float) -> Iterator[list[Keeper]]:
    """Creates ends, joined by links of unlimited rate with an additional round-trip time of `rtt_ms`.

    Two without delay are a veth pair; otherwise TUN devices with a relay between them, see `eval.links.relay`.

    Raises:
      RunError: if it can't be created.
    """
    keepers: list[Keeper] = []
    relay = None
    try:
        for end in range(count):
            keepers.append(_keeper(end, count))
        first, *others = pids = [str(keeper.process.pid) for keeper in keepers]
        if rtt_ms or count > 2:
            ends = (f"{pid}={address(end)}" for end, pid in enumerate(pids))
            relay = _start([sys.executable, "-m", "eval.links.relay", DEVICE, str(rtt_ms / 2), *ends], "no relay")
        else:
            pair = ["type", "veth", "peer", "name", DEVICE, "netns", *others]
            keepers[0].run("ip", "link", "add", DEVICE, "netns", first, *pair)
        for end, keeper in enumerate(keepers):
            keeper.run("ip", "address", "add", f"{address(end)}/24", "dev", DEVICE)
            keeper.run("ip", "link", "set", DEVICE, "mtu", str(MTU), "up")
        yield keepers
    finally:
        for process in (relay, *(keeper.process for keeper in keepers)):
            if process is not None:
                process.communicate()


def shape(rate: str) -> None:
    """Limits the sending rate of this end. Called at both ends."""
    bucket = ["tbf", "rate", rate, "burst", str(BURST_BYTES), "latency", QUEUE]
    words = ["tc", "qdisc", "replace", "dev", DEVICE, "root", *bucket]
    completed = subprocess.run(words, capture_output=True, text=True, check=False)
    if completed.returncode:
        raise RunError(f"{' '.join(words)} failed: {one_line(completed.stderr)}; {OFFER}")


def counters() -> tuple[int, int] | None:
    """Returns the bytes sent and received by the interface of this end, including headers. None if this process is not
    at an end of a link."""
    counters_file = Path("/proc/self/net/dev")
    for line in counters_file.read_text().splitlines() if counters_file.exists() else []:
        name, _, numbers = line.partition(":")
        if name.strip() == DEVICE:
            received, sent = (int(numbers.split()[i]) for i in (0, 8))
            return sent, received
    return None


def _keeper(end: int, count: int) -> Keeper:
    begin = 'mount --bind "$0" /etc/hosts && hostname "$1" && ip link set lo up && echo ready && exec cat >&2'
    lines = ["127.0.0.1 localhost", *(f"{address(other)} prism{other}" for other in range(count))]
    with tempfile.NamedTemporaryFile("w", prefix="prism_jax_hosts_") as hosts:  # once mounted, the file needs no name
        hosts.write("\n".join(lines) + "\n")
        hosts.flush()
        spaces = ["unshare", "--net", "--mount", "--uts"]
        return Keeper(_start([*spaces, "sh", "-c", begin, hosts.name, f"prism{end}"], "no namespace"))


def _start(command: Sequence[str], fault: str) -> subprocess.Popen[bytes]:
    """Starts a process and waits until it is ready. It ends when its input closes, and Ctrl-C does not reach it."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        process.kill()
        stderr = process.communicate()[1].decode().strip()
        raise RunError(f"{fault} can be made: {stderr[-200:]}; {OFFER}")
    return process


def _succeeds(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
