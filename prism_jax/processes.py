"""Several processes, on one machine or on several hosts, as one run: who is who, and what they tell each other.

Every process runs the same command. Process 0 is the terminal: it reads the input and gets the results; the others need
the config and the weights, nothing else. What only the terminal knows reaches them by `from_terminal`. In a run of
one process, all of this does nothing.
"""

import argparse
import contextlib
import hashlib
import io
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from prism_jax.errors import InputError, RunError

T = TypeVar("T")

LOST_AFTER_SECONDS = 20
"""A process that has not been heard from for so long is lost, and ends all others."""

USAGE = (
    "On several hosts: the same command on each, with --coordinator HOST:PORT (of process 0) --num-processes P --process-id I; "
    "--coordinator auto takes all three from SLURM, MPI or Kubernetes, as JAX finds them. On this machine: eval.launch."
)


def join(argv: list[str]) -> list[str]:
    """Joins the run that `--coordinator HOST:PORT --num-processes P --process-id I` name; returns the other arguments.

    `--coordinator auto` leaves to JAX what is not said. Beside the terminal nothing is printed but errors.

    Raises:
      InputError: for wrong flags, or a port that is taken.
      RunError: if the others can't be reached.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    try:
        said, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise InputError(f"{error}; {USAGE}") from error
    if said.coordinator is None:
        if (said.num_processes, said.process_id) != (None, None):
            raise InputError(f"--num-processes and --process-id go with --coordinator; {USAGE}")
        return argv
    _as_batch()
    where = None if said.coordinator == "auto" else said.coordinator
    if where:
        _check_address(where, said.num_processes, said.process_id)
    try:
        jax.distributed.initialize(
            where, said.num_processes, said.process_id, heartbeat_timeout_seconds=LOST_AFTER_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"the processes at {said.coordinator} did not come together: {reason}") from error
    if not is_terminal():
        os.environ["TQDM_DISABLE"] = "1"
        sys.stdout = io.StringIO()
    return rest


def several() -> bool:
    """Whether this run has more than one process. Starts JAX only where it has."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_terminal() -> bool:
    """Whether this process holds the input and gets the results."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def refuse_several(what: str) -> None:
    """Raises InputError in a run of several processes."""
    if several():
        raise InputError(f"{what} in one process; leave --coordinator, --num-processes and --process-id out")


def from_terminal(make: Callable[[], T], outline: Callable[[T], Any] = lambda value: value) -> T:
    """What the terminal makes, on every process; the others get its `outline`. Called by all of them, in the same order.

    An InputError or RunError of the terminal ends every process.
    """
    if not several():
        return make()
    if is_terminal():
        try:
            made = make()
        except (InputError, RunError):
            _broadcast(None)
            raise
        _broadcast((outline(made),))
        return made
    sent = _broadcast(None)
    if sent is None:
        raise SystemExit(2)  # the terminal says why
    return sent[0]


def from_process(process: int, x: np.ndarray) -> np.ndarray:
    """The array of one process on every process; those of the others matter by their shape alone. Called by all of them."""
    return np.asarray(multihost_utils.broadcast_one_to_all(x, is_source=jax.process_index() == process))


def check_same(what: str, value: Any) -> None:
    """Raises InputError unless every process has the same value: a tree of arrays, or what prints the same."""
    if not several():
        return
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        array = isinstance(leaf, np.ndarray | jax.Array)
        sha.update(f"{path}{(leaf.dtype, leaf.shape) if array else leaf!r}".encode())
        if array:
            sha.update(np.ascontiguousarray(leaf).tobytes())
    mine = np.frombuffer(sha.digest(), np.uint8)
    everyones = np.asarray(multihost_utils.process_allgather(mine))
    if others := [str(i) for i, theirs in enumerate(everyones) if (theirs != everyones[0]).any()]:
        raise InputError(
            f"other {what} on process {', '.join(others)} than on process 0; start all of them with the same"
        )


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Around a whole command: a process that fails ends at once and does not wait for the others, who end for want of it."""
    try:
        yield
    except SystemExit as stop:
        if stop.code not in (0, None) and jax.distributed.is_initialized():
            sys.stderr.flush()
            os._exit(stop.code if isinstance(stop.code, int) else 1)
        raise


def says_lost(error: Exception) -> bool:
    """Whether an error is that of a collective whose other end is gone."""
    return several() and any(name in str(error) for name in ("Gloo", "NCCL", "oordination"))


def _broadcast(value: Any) -> Any:
    """The terminal's value, pickled, on every process; padded so that few shapes are compiled."""
    pickled = pickle.dumps(value) if is_terminal() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(pickled))))
    sent = np.zeros(1 << max(size - 1, 1).bit_length(), np.uint8)
    sent[: len(pickled)] = np.frombuffer(pickled, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(sent))
    return value if is_terminal() else pickle.loads(received[:size].tobytes())


def _as_batch() -> None:
    """On one core, makes the threads to come batch work, of which none preempts another when it is woken (Linux).

    An all-gather of 32 bytes took 3 ms without that, and 0.06 ms with it (Linux 6.18).
    """
    if hasattr(os, "SCHED_BATCH") and len(os.sched_getaffinity(0)) == 1 and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _check_address(where: str, num_processes: int | None, process_id: int | None) -> None:
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator is {where!r}; give HOST:PORT, such as 192.168.1.10:12345, or auto")
    if num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise InputError(
            f"--num-processes is {num_processes} and --process-id {process_id}; choose P of 1 or more, and an id of 0 to P - 1"
        )
    if process_id == 0:
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", int(port)))
        except OSError as error:
            raise InputError(f"port {port} of this machine can't be used: {error.strerror}; choose another") from error
