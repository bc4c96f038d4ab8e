"""Runs of several processes, on one machine or on several hosts: roles and communication.

Every process runs the same command. Process 0 reads the input and gets the results. The other processes need only the
config and the weights; `from_terminal` sends them values that only process 0 has. In a run of one process, these
functions do nothing.
"""

import argparse
import atexit
import contextlib
import hashlib
import io
import os
import pickle
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src.clusters import ClusterEnv  # no public API detects clusters, for --coordinator auto
from jax.experimental import multihost_utils

from prism_jax.errors import InputError, RunError, one_line
from prism_jax.parallel.bond import GRACE_SECONDS, Bond
from prism_jax.parallel.meeting import meet

T = TypeVar("T")

LOST_AFTER_SECONDS = 20.0
"""Seconds without a sign of life after which a process counts as lost. All other processes then end."""

JOIN_SECONDS = 120.0
"""Default of --join-seconds: seconds that the processes wait for each other at the start."""

NEVER_SECONDS = 10**6
"""Shutdown time-out for JAX, in seconds: practically unlimited. After it, JAX would end a process that waits for slower
ones. The bond checks whether they are alive."""

PIECE_BYTES = 1 << 27
"""Most bytes of a value that process 0 sends at once: its padding and its copies on the way are no larger."""

_bond: Bond | None = None

USAGE = (
    "On several hosts: the same command on each, with --coordinator HOST:PORT (of process 0) --num-processes P "
    "--process-id I; "
    f"they wait {JOIN_SECONDS:g} s for each other, or --join-seconds N. "
    "--coordinator auto takes all three from SLURM, MPI or Kubernetes, as JAX finds them. On this machine: eval.launch."
)


def join(argv: list[str], lost_after: float = LOST_AFTER_SECONDS) -> list[str]:
    """Joins the run given by `--coordinator HOST:PORT --num-processes P --process-id I`; returns the other arguments.

    `--coordinator auto` takes missing values from SLURM, MPI or Kubernetes. On the CPU, every process gets a single
    device, whatever the environment says. Processes other than 0 print only errors.

    Args:
      lost_after: seconds without a sign of life after which a process counts as lost.

    Raises:
      InputError: if flags are wrong, the address can't be used, or the processes were started with different numbers of
        processes.
      RunError: if a process does not join in time.
    """
    global _bond
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--join-seconds", type=float)
    try:
        flags, other_arguments = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise InputError(f"{error}; {USAGE}") from error
    if flags.coordinator is None:
        if (flags.num_processes, flags.process_id, flags.join_seconds) != (None, None, None):
            raise InputError(f"--num-processes, --process-id and --join-seconds go with --coordinator; {USAGE}")
        return argv
    seconds = JOIN_SECONDS if flags.join_seconds is None else flags.join_seconds
    if not 0 < seconds < float("inf"):
        raise InputError(f"--join-seconds is {seconds:g}; give a number of seconds above 0")
    where, num_processes, process_id = _resolve_coordinator(flags.coordinator, flags.num_processes, flags.process_id)
    host, port = _address(where)
    if num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise InputError(
            f"--num-processes is {num_processes} and --process-id {process_id}; choose P of 1 or more, "
            "and an id of 0 to P - 1"
        )
    _use_batch_scheduling()
    bond = meet(host, port, num_processes, process_id, seconds=seconds, lost_after=lost_after)
    _bond, service = bond, f"unix:{bond.service}"
    atexit.register(_leave, bond)
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_check_proxy_envs", False)  # socket files need no proxy
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    try:
        jax.distributed.initialize(
            service,
            num_processes,
            process_id,
            coordinator_bind_address=service,
            shutdown_timeout_seconds=NEVER_SECONDS,
        )
        devices = jax.devices()
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the processes at {where} did not come together: {one_line(error)}") from error
    bond.clean()
    _check_devices([device.process_index for device in devices])
    if not is_terminal():
        os.environ["TQDM_DISABLE"] = "1"
        sys.stdout = io.StringIO()
    return other_arguments


def several() -> bool:
    """Returns whether this run has more than one process. Starts JAX only if it has."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def own_host() -> str:
    """Returns a name or address at which the other processes reach this one, in a run of several."""
    assert _bond is not None
    return _bond.host


def is_terminal() -> bool:
    """Returns whether this process is process 0, which holds the input and gets the results."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def refuse_several(subject: str) -> None:
    """Raises InputError in a run of several processes. The message starts with `subject`."""
    if several():
        raise InputError(f"{subject} in one process; leave --coordinator, --num-processes and --process-id out")


def from_terminal(make: Callable[[], T], outline: Callable[[T], Any] = lambda value: value) -> T:
    """Returns on every process a value that process 0 computes. All processes call it, in the same order.

    `make` runs on process 0 only. The other processes get `outline(value)` in place of the value. An error on process 0
    ends every process.
    """
    if not several():
        return make()
    if is_terminal():
        value = make()
        _broadcast(outline(value))
        return value
    return _broadcast(None)


def barrier(name: str) -> None:
    """Waits until all processes reach this call. All of them must pass the same name."""
    multihost_utils.sync_global_devices(name)


def from_process(process: int, x: np.ndarray) -> np.ndarray:
    """Returns the array of one process on every process. All processes call it, with arrays of one shape."""
    return np.asarray(multihost_utils.broadcast_one_to_all(x, is_source=jax.process_index() == process))


def on_any(*flags: bool) -> tuple[bool, ...]:
    """Returns for each flag whether it is set on at least one process. All processes call it."""
    if not several():
        return flags
    return tuple(np.any(multihost_utils.process_allgather(np.array(flags)), axis=0).tolist())


def check_same(name: str, value: Any) -> None:
    """Raises InputError unless all processes have the same tree. Arrays count by value, other leaves by `repr`."""
    if not several():
        return
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        array = isinstance(leaf, np.ndarray | jax.Array)
        sha.update(f"{path}{(leaf.dtype, leaf.shape) if array else leaf!r}".encode())
        if array:
            sha.update(np.ascontiguousarray(leaf).tobytes())
    own_digest = np.frombuffer(sha.digest(), np.uint8)
    digests = np.asarray(multihost_utils.process_allgather(own_digest))
    if others := [str(i) for i, digest in enumerate(digests) if (digest != digests[0]).any()]:
        raise InputError(f"{name} differ between process 0 and process {', '.join(others)}; start all with the same")


def scratch_folder() -> Path:
    """Returns the scratch folder of this process, in a run of several. It is deleted when the process ends."""
    assert _bond is not None
    return _bond.scratch()


@contextlib.contextmanager
def end_all_on_error() -> Iterator[None]:
    """Wraps a whole command in a run of several processes: if this process fails, it ends at once, and the others with
    it."""
    try:
        yield
    except BaseException as error:
        if _bond is None or (isinstance(error, SystemExit) and error.code in (0, None)):
            raise
        status = 1
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else 1
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        _bond.end(status)


def is_lost_connection(error: Exception) -> bool:
    """Returns whether an error comes from a collective that lost another process."""
    return several() and any(name in str(error) for name in ("Gloo", "NCCL", "oordination"))


def wait_for_bond() -> None:
    """Waits until the bond names the lost process and ends this one. Returns if the bond knows of no loss."""
    time.sleep(2 * GRACE_SECONDS)


def wake_at_once() -> None:
    """Lets this thread preempt those that compute: when what it waits for is there, it need not wait for a block."""
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_BATCH:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _leave(bond: Bond) -> None:
    """Waits until all processes are done, then leaves the run."""
    jax.distributed.shutdown()
    bond.leave()


def _broadcast(value: Any) -> Any:
    """Returns process 0's value on every process. It is pickled, and sent in pieces."""
    pickled = pickle.dumps(value) if is_terminal() else b""
    size = int.from_bytes(_piece(len(pickled).to_bytes(8), 8))  # as bytes: JAX has no int64 here
    received = bytearray()
    for start in range(0, size, PIECE_BYTES):
        piece = _piece(pickled[start : start + PIECE_BYTES], min(size - start, PIECE_BYTES))
        received += b"" if is_terminal() else piece
    return value if is_terminal() else pickle.loads(received)


def _piece(content: bytes, size: int) -> bytes:
    """Returns `size` bytes of process 0 on every process. They are padded so that few shapes are compiled."""
    sent = np.zeros(1 << max(size - 1, 1).bit_length(), np.uint8)
    sent[: len(content)] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(sent))[:size].tobytes()


def _use_batch_scheduling() -> None:
    """On one core, gives new threads batch scheduling, in which a woken thread does not preempt another (Linux).

    Reduced an all-gather of 32 bytes from 3 ms to 0.06 ms (Linux 6.18).
    """
    if hasattr(os, "SCHED_BATCH") and len(os.sched_getaffinity(0)) == 1 and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _resolve_coordinator(
    where: str, num_processes: int | None, process_id: int | None
) -> tuple[str, int | None, int | None]:
    """Returns the address, the number of processes and the id of this process, from the flags or from the cluster."""
    if where != "auto":
        return where, num_processes, process_id
    try:
        address, num_processes, process_id, _ = ClusterEnv.auto_detect_unset_distributed_params(
            None, num_processes, process_id, None, None, int(JOIN_SECONDS)
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(f"--coordinator auto found no address: {one_line(error)}") from error
    if address is None:
        raise InputError(
            f"--coordinator is auto, but neither SLURM, MPI nor Kubernetes has started this process; {USAGE}"
        )
    return address, num_processes, process_id


def _address(where: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})", where, re.ASCII)
    if not match or not 0 < int(match[3]) < 65536:
        raise InputError(f"--coordinator is {where!r}; give HOST:PORT, such as 192.168.1.10:12345, or auto")
    return match[1] or match[2], int(match[3])


def _check_devices(process_of_devices: list[int]) -> None:
    """Raises InputError unless every process has as many devices as process 0."""
    count = Counter(process_of_devices)
    if others := [f"process {i} has {n}" for i, n in sorted(count.items()) if n != count[0]]:
        raise InputError(f"process 0 has {count[0]} devices, but {', '.join(others)}; give all of them as many")
