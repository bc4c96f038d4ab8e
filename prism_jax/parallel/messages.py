"""Messages between the processes of a run: a gather in which each process sends its array to all others at once.

Gloo, which runs the collectives of XLA between CPU processes, lets a sender wait until the receiver says that it is
ready: about a round trip, for two processes. Among more, it passes arrays on around a ring. Here an array leaves when
it is ready, and arrives half a round trip later, however many processes there are.
"""

import contextlib
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import jax
import numpy as np

from prism_jax.errors import LostError, RunError
from prism_jax.parallel.meeting import listen
from prism_jax.parallel.processes import from_process, from_terminal, own_host, wake_at_once

WAIT_SECONDS = 60.0
"""Seconds that the processes have to connect."""

GREETING_SECONDS = 5.0
"""Seconds in which a new connection must name its process. Then it is closed."""

GREETING = struct.Struct("<32sQ")
"""First bytes of a connection: the secret of the run, and the process that connects."""

HEADER = struct.Struct("<QQ")
"""In front of each array: its number on this connection, and its bytes."""


class Messages:
    """Connections of this process with each of the others.

    Arrays leave on one thread and arrive on another, in the order of the calls. That order is the same on every
    process.

    Attributes:
      process: this process.
      connections: by process.
    """

    def __init__(self, process: int, connections: dict[int, socket.socket]):
        self.process, self.connections = process, connections
        self._sent, self._received = dict.fromkeys(connections, 0), dict.fromkeys(connections, 0)
        self._sender, self._receiver = (ThreadPoolExecutor(1, name, wake_at_once) for name in ("sender", "receiver"))

    def gather(
        self, processes: Sequence[int], shape: jax.ShapeDtypeStruct, own: Callable[[], np.ndarray]
    ) -> Future[np.ndarray]:
        """Begins to gather an array of each of these processes, this one among them. Each of them makes this call.

        Args:
          processes: in the order of the result.
          shape: of an array.
          own: returns this process's array, when it is ready.

        Returns:
          The arrays, [processes, ...].

        Raises:
          LostError: when the result is read, if a process is gone.
          RunError: when it is read, if a process sends something else.
        """
        leaving = self._sender.submit(self._send, processes, own)
        return self._receiver.submit(self._receive, processes, shape, leaving)

    def _send(self, processes: Sequence[int], own: Callable[[], np.ndarray]) -> np.ndarray:
        array = own()
        rows = array.tobytes()
        i = processes.index(self.process)
        for process in (*processes[i + 1 :], *processes[:i]):  # no process is the first of all
            with _names(process):
                self.connections[process].sendall(HEADER.pack(self._sent[process], len(rows)) + rows)
            self._sent[process] += 1
        return array

    def _receive(self, processes: Sequence[int], shape: jax.ShapeDtypeStruct, leaving: Future) -> np.ndarray:
        gathered = np.empty((len(processes), *shape.shape), shape.dtype)
        for array, process in zip(gathered.reshape(len(processes), -1).view(np.uint8), processes, strict=True):
            if process != self.process:
                with _names(process):
                    expected = self._received[process], array.nbytes
                    header = HEADER.unpack(receive(self.connections[process], HEADER.size))
                    if header != expected:
                        raise RunError(
                            f"process {process} sent message {header[0]} of {header[1]} bytes, but message "
                            f"{expected[0]} of {expected[1]} is due; start the same command on all"
                        )
                    array[:] = receive(self.connections[process], array.nbytes)
                self._received[process] += 1
        gathered[processes.index(self.process)] = leaving.result()
        return gathered


def receive(connection: socket.socket, size: int) -> bytearray:
    """Returns the next bytes of a connection.

    Raises:
      ConnectionError: if the connection ends before.
    """
    received = bytearray(size)
    left = memoryview(received)
    while left.nbytes:
        read = connection.recv_into(left)
        if not read:
            raise ConnectionError("it has closed the connection")
        left = left[read:]
    return received


@cache
def messages() -> Messages:
    """Returns the connections of this run. The first call opens them; all processes make it at the same time.

    Raises:
      LostError: if a process can't be reached.
    """
    own, count = jax.process_index(), jax.process_count()
    secret = from_terminal(lambda: secrets.token_bytes(32))
    connections: dict[int, socket.socket] = {}
    with listen(own_host(), 0) as server:
        address = np.frombuffer(f"{server.getsockname()[1]} {own_host()}".encode().ljust(300), np.uint8)
        for process in range(count):
            port, host = from_process(process, address).tobytes().decode().split()
            if process < own:
                with _names(process, f" at {host}, port {port}; let firewalls pass what the processes listen to"):
                    connections[process] = socket.create_connection((host, int(port)), WAIT_SECONDS)
                    connections[process].sendall(GREETING.pack(secret, own))
        connections |= accept(server, secret, set(range(own + 1, count)))
    for connection in connections.values():
        connection.settimeout(None)  # the bond notices when a process is gone
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Messages(own, connections)


def accept(server: socket.socket, secret: bytes, missing: set[int]) -> dict[int, socket.socket]:
    """Returns the connections of these processes, once they have come with the secret of the run. Closes all others.

    Raises:
      LostError: if they do not come in time.
    """
    until = time.monotonic() + WAIT_SECONDS
    accepted: dict[int, socket.socket] = {}
    while left := missing - accepted.keys():
        server.settimeout(max(until - time.monotonic(), 1e-3))
        with _names(", ".join(map(str, sorted(left)))):
            connection, _ = server.accept()
        connection.settimeout(GREETING_SECONDS)
        try:
            its_secret, process = GREETING.unpack(receive(connection, GREETING.size))
        except OSError:
            its_secret, process = b"", -1
        if secrets.compare_digest(its_secret, secret) and process in left:
            accepted[process] = connection
        else:
            connection.close()
    return accepted


@contextlib.contextmanager
def _names(process: int | str, way_out: str = "") -> Iterator[None]:
    """Raises LostError with the other process's name where a connection fails."""
    try:
        yield
    except OSError as error:
        raise LostError(f"no connection with process {process}: {error.strerror or error}{way_out}") from error
