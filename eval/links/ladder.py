"""A ladder of message sizes, which measures rate and round-trip time of the link between processes 0 and 1."""

import contextlib
import socket
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from eval.links import shaped
from prism_jax.errors import RunError
from prism_jax.parallel.processes import from_terminal

SIZES = (1_000, 10_000, 30_000, 100_000, 400_000)
"""Bytes of the messages."""
ROUNDS = 5
WAIT_SECONDS = 60.0
"""Seconds that an end waits for the other at most."""


def climb(host: str) -> list[dict]:
    """Sends messages of growing size from process 0 to process 1, each answered by a byte. Called on every process.

    Args:
      host: name or address of process 0, as process 1 reaches it.

    Returns:
      The median seconds until the answer and the bytes for each size, with headers where the link is shaped. An empty
      list on processes other than 0.

    Raises:
      RunError: if the link carries nothing.
    """
    end = jax.process_index()
    try:
        with _listening(host) if end == 0 else contextlib.nullcontext() as server:
            port = from_terminal(lambda: server.getsockname()[1] if server else 0)
            if server:
                server.settimeout(WAIT_SECONDS)
                with server.accept()[0] as link:
                    return _send_up(link)
            if end == 1:
                with socket.create_connection((host, port), timeout=WAIT_SECONDS) as link:
                    _answer(link)
    except OSError as error:
        raise RunError(
            f"no messages between process 1 and {host}: {error}; let a firewall pass what process 0 listens to"
        ) from error
    return []


def measured(rungs: Sequence[dict]) -> dict[str, float]:
    """Returns the results of a ladder: the rate, from its largest message, and the round-trip time, from its
    smallest."""
    first, *_, last = rungs
    rate = 8 * (last["bytes_counted"] - first["bytes_counted"]) / (last["seconds"] - first["seconds"])
    return {"rtt_ms": 1e3 * (first["seconds"] - 8 * first["bytes_counted"] / rate), "rate_bits_per_second": rate}


def _listening(host: str) -> socket.socket:
    """Returns a server at this address alone, on a port that the system chooses."""
    family, *_ = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    return socket.create_server((host, 0), family=family)


def _send_up(link: socket.socket) -> list[dict]:
    link.settimeout(WAIT_SECONDS)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    rungs = []
    for size in SIZES:
        seconds, counted = [], _counter(size)
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            link.sendall(bytes(size))
            _receive(link, 1)
            seconds.append(time.perf_counter() - started)
        rungs.append({"bytes": size, "seconds": float(np.median(seconds[1:])), "bytes_counted": counted()})
    return rungs


def _counter(size: int) -> Callable[[], float]:
    """Returns a function that gives the bytes of a message since this call: those that the interface of a shaped link
    counts, otherwise those of the message."""
    before = shaped.counters()

    def counted() -> float:
        after = shaped.counters()
        return (after[0] - before[0]) / (ROUNDS + 1) if before and after else float(size)

    return counted


def _answer(link: socket.socket) -> None:
    for size in SIZES:
        for _ in range(ROUNDS + 1):
            _receive(link, size)
            link.sendall(b".")


def _receive(link: socket.socket, size: int) -> None:
    while size:
        read = link.recv(min(size, 1 << 16))
        if not read:
            raise RunError("the other end of the link is gone")
        size -= len(read)
