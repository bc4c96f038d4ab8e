"""A ladder of message sizes, which measures rate and round-trip time of the link between processes 0 and 1."""

import socket
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from eval.links import shaped
from prism_jax.errors import LostError, RunError, one_line
from prism_jax.parallel.messages import messages, receive

SIZES = (1_000, 10_000, 30_000, 100_000, 400_000)
"""Bytes of the messages."""
ROUNDS = 5


def climb() -> list[dict]:
    """Sends messages of growing size from process 0 to process 1, each answered by a byte. Called on every process.

    Returns:
      The median seconds until the answer and the bytes for each size, with headers where the link is shaped. An empty
      list on processes other than 0.

    Raises:
      LostError: if a process can't be reached, or is gone.
    """
    connections, end = messages().connections, jax.process_index()
    try:
        if end == 0:
            return _send_up(connections[1])
        if end == 1:
            _answer(connections[0])
    except OSError as error:
        raise LostError(f"no messages between process 1 and process 0: {one_line(error)}") from error
    return []


def measured(rungs: Sequence[dict]) -> dict[str, float]:
    """Returns the results of a ladder: the rate, from its largest message, and the round-trip time, from its smallest.

    Raises:
      RunError: if the largest message took no longer than the smallest.
    """
    first, *_, last = rungs
    if last["seconds"] <= first["seconds"]:
        raise RunError("the largest message of the ladder took no longer than the smallest; measure once more")
    rate = 8 * (last["bytes_counted"] - first["bytes_counted"]) / (last["seconds"] - first["seconds"])
    return {"rtt_ms": 1e3 * (first["seconds"] - 8 * first["bytes_counted"] / rate), "rate_bits_per_second": rate}


def _send_up(link: socket.socket) -> list[dict]:
    rungs = []
    for size in SIZES:
        seconds, counted = [], _counter(size)
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            link.sendall(bytes(size))
            receive(link, 1)
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
            receive(link, size)
            link.sendall(b".")
