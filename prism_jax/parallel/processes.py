"""Several processes, on one machine or on several hosts, as one run: who is who, and what they tell each other.

Every process runs the same command. Process 0 is the terminal: it reads the input and gets the results; the others need
the config and the weights, nothing else. What only the terminal knows reaches them by `from_terminal`. In a run of
one process, all of this does nothing.
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
from jax._src.clusters import ClusterEnv  # what --coordinator auto finds has no public name
from jax.experimental import multihost_utils

from prism_jax.errors import InputError, RunError, one_line
from prism_jax.parallel.bond import GRACE_SECONDS, Bond
from prism_jax.parallel.meeting import meet

T = TypeVar("T")

LOST_AFTER_SECONDS = 20.0
"""A process that has not been heard from for so long is lost, and ends all others."""

JOIN_SECONDS = 120.0
"""So long the processes wait for each other at first."""

NEVER_SECONDS = 10**6
"""JAX would end a process that has waited for so long until the others are done. The bond knows whether they live."""

_bond: Bond | None = None

USAGE = (
    "On several hosts: the same command on each, with --coordinator HOST:PORT (of process 0) --num-processes P "
    "--process-id I; "
    f"they wait {JOIN_SECONDS:g} s for each other, or --join-seconds N. "
    "--coordinator auto takes all three from SLURM, MPI or Kubernetes, as JAX finds them. On this machine: eval.launch."
)


def join(argv: list[str], lost_after: float = LOST_AFTER_SECONDS) -> list[str]:
    """Joins the run that `--coordinator HOST:PORT --num-processes P --process-id I` name; returns the other arguments.

    `--coordinator auto` takes what is not said from SLURM, MPI or Kubernetes. On the CPU every process gets one device,
    whatever the environment says. Beside the terminal nothing is printed but errors.

    Args:
      lost_after: seconds without a sign of life, after which a process is lost.

    Raises:
      InputError: for wrong flags, an address that is not to be had, or processes that were started with other numbers.
      RunError: if one of them does not come in time.
    """
    global _bond
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--join-seconds", type=float)
    try:
        said, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise InputError(f"{error}; {USAGE}") from error
    if said.coordinator is None:
        if (said.num_processes, said.process_id, said.join_seconds) != (None, None, None):
            raise InputError(f"--num-processes, --process-id and --join-seconds go with --coordinator; {USAGE}")
        return argv
    seconds = JOIN_SECONDS if said.join_seconds is None else said.join_seconds
    if not 0 < seconds < float("inf"):
        raise InputError(f"--join-seconds is {seconds:g}; give a number of seconds above 0")
    where, num_processes, process_id = _whereabouts(said.coordinator, said.num_processes, said.process_id)
    host, port = _address(where)
    if num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise InputError(
            f"--num-processes is {num_processes} and --process-id {process_id}; choose P of 1 or more, "
            "and an id of 0 to P - 1"
        )
    _as_batch()
    bond = meet(host, port, num_processes, process_id, seconds=seconds, lost_after=lost_after)
    _bond, service = bond, f"unix:{bond.service}"
    atexit.register(_leave, bond)
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_check_proxy_envs", False)  # a socket file is reached without one
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
    """What the terminal makes, on every process; the others get its `outline`. Called by all of them,
    in the same order.

    An error of the terminal ends every process.
    """
    if not several():
        return make()
    if is_terminal():
        made = make()
        _broadcast(outline(made))
        return made
    return _broadcast(None)


def barrier(name: str) -> None:
    """Waits until all processes are here. Called by all of them, with the same name."""
    multihost_utils.sync_global_devices(name)


def from_process(process: int, x: np.ndarray) -> np.ndarray:
    """Returns the array of one process on every process. Called by all of them, with arrays of its shape."""
    return np.asarray(multihost_utils.broadcast_one_to_all(x, is_source=jax.process_index() == process))


def on_any(*flags: bool) -> tuple[bool, ...]:
    """Returns for each flag whether it is set on one process or more. Called by all of them."""
    if not several():
        return flags
    return tuple(np.any(multihost_utils.process_allgather(np.array(flags)), axis=0).tolist())


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


def scratch_folder() -> Path:
    """A folder of this process of several, which goes with it. There is one."""
    assert _bond is not None
    return _bond.scratch()


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Around a whole command: a process that fails ends at once, and the others with it."""
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


def says_lost(error: Exception) -> bool:
    """Whether an error is that of a collective whose other end is gone."""
    return several() and any(name in str(error) for name in ("Gloo", "NCCL", "oordination"))


def let_bond_speak() -> None:
    """Waits: the bond knows which process is gone, says so and ends this one. Returns if it does not know."""
    time.sleep(2 * GRACE_SECONDS)


def _leave(bond: Bond) -> None:
    """Waits until all processes are done."""
    jax.distributed.shutdown()
    bond.leave()


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


def _whereabouts(where: str, num_processes: int | None, process_id: int | None) -> tuple[str, int | None, int | None]:
    """The address, the number of processes and the one of this process, as said or as the cluster says."""
    if where != "auto":
        return where, num_processes, process_id
    try:
        found, num_processes, process_id, _ = ClusterEnv.auto_detect_unset_distributed_params(
            None, num_processes, process_id, None, None, int(JOIN_SECONDS)
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(f"--coordinator auto found no address: {one_line(error)}") from error
    if found is None:
        raise InputError(
            f"--coordinator is auto, but neither SLURM, MPI nor Kubernetes has started this process; {USAGE}"
        )
    return found, num_processes, process_id


def _address(where: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})", where, re.ASCII)
    if not found or not 0 < int(found[3]) < 65536:
        raise InputError(f"--coordinator is {where!r}; give HOST:PORT, such as 192.168.1.10:12345, or auto")
    return found[1] or found[2], int(found[3])


def _check_devices(process_of_devices: list[int]) -> None:
    """Raises InputError unless every process has as many devices as process 0."""
    count = Counter(process_of_devices)
    if others := [f"process {i} has {n}" for i, n in sorted(count.items()) if n != count[0]]:
        raise InputError(f"process 0 has {count[0]} devices, but {', '.join(others)}; give all of them as many")
