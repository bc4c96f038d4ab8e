"""Startup of a run: every process connects to process 0.

Process 0 listens only at the address of the run. Every other process opens a connection to it, the bond. It opens more
connections for JAX's messages to the coordination service, which listens at a socket file of process 0. These
connections are opened with a secret that process 0 sends to all members of the run.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import re
import secrets
import socket
import threading
from typing import Any

from prism_jax.errors import InputError, RunError
from prism_jax.parallel.bond import GRACE_SECONDS, Bond, pump, say

NOTE_SECONDS = 5.0
"""Seconds after which a waiting process prints a note."""


def meet(host: str, port: int, num_processes: int, process: int, *, seconds: float, lost_after: float) -> Bond:
    """Waits until all processes of a run are connected, for at most `seconds`.

    Args:
      host, port: address at which process 0 listens.
      lost_after: seconds without a sign of life after which a process counts as lost.

    Raises:
      InputError: if the address can't be used, or the processes were started with different numbers of processes.
      RunError: with the missing processes, if some do not connect in time.
    """
    role = _First if process == 0 else _Other
    bond = role(host, port, num_processes, process, lost_after)
    note = threading.Timer(NOTE_SECONDS, lambda: say(f"waiting for {bond.missing()}, for {seconds:g} s at most"))
    note.daemon = True
    note.start()
    try:
        bond.wait(bond.gather(seconds))
    except BaseException:
        bond.close()
        raise
    finally:
        note.cancel()
    return bond


class _First(Bond):
    """Process 0 of a run: accepts the connections of the others."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._secret = secrets.token_hex(16)
        self._decided = asyncio.Event()
        self._other_number: str | None = None

    def missing(self) -> str:
        numbers = (str(i) for i in range(1, self._num_processes) if i not in self._peers)
        return f"process {', '.join(itertools.islice(numbers, 10))}{', ...' * any(numbers)}"

    async def gather(self, seconds: float) -> None:
        where = f"{self._host}:{self._port}"
        listening = listen(self._host, self._port)
        self._open.append(await asyncio.start_server(self._accept, sock=listening))
        self._begin(self._send_heartbeats())
        try:
            if self._num_processes > 1:
                await asyncio.wait_for(self._decided.wait(), seconds)
        except TimeoutError:
            came = f"{1 + len(self._peers)} of {self._num_processes} processes came to {where} in {seconds:g} s"
            message = f"{came}, but not {self.missing()}; start all of them, or give a longer --join-seconds"
            await self._send_last(f"missing {message}", GRACE_SECONDS)
            raise RunError(message) from None
        if self._other_number:
            await self._send_last(f"refused {self._other_number}", GRACE_SECONDS)
            raise InputError(self._other_number)
        self._begun = True
        self._send(f"go {self._secret}")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handles a new connection. Closes it if the peer does not follow our protocol."""
        self._open.append(writer)
        try:
            line = (await asyncio.wait_for(reader.readline(), self._lost_after)).decode("ascii")
        except (OSError, ValueError):  # a TimeoutError is an OSError
            line = ""
        if member := re.fullmatch(r"member (\d{1,9}) (\d{1,9})\n", line):
            process, total = map(int, member.groups())
            if refusal := self._refusal(process, total):
                writer.write(f"refused {refusal}\n".encode())
            else:
                self._peers[process] = writer
                if len(self._peers) == self._num_processes - 1:
                    self._decided.set()
                await self._watch(process, reader)
        elif secrets.compare_digest(line, f"relay {self._secret}\n"):
            await self._serve(reader, writer)
        self._open.remove(writer)
        writer.close()

    def _refusal(self, process: int, total: int) -> str | None:
        """Returns the reason why a process may not take part, or None. If it was started for another number of
        processes, no process may."""
        if total != self._num_processes and not self._decided.is_set():
            self._other_number = (
                f"process {process} was started with --num-processes {total}, but process 0 with "
                f"{self._num_processes}; give all of them the same"
            )
            self._decided.set()
            return self._other_number
        if process in self._peers or self._decided.is_set() or not 0 < process < self._num_processes:
            run = f"the run at {self._host}:{self._port}"
            return f"{run} has no place for a process {process}; give every process a different id, from 0 to P - 1"
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connects another process to JAX's coordination service, which may not have started yet."""
        while not self._over:
            try:
                near, to_near = await asyncio.open_unix_connection(self.service)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            self._open.append(to_near)
            await asyncio.gather(pump(reader, to_near), pump(near, writer))
            to_near.close()
            return


class _Other(Bond):
    """Any process of a run except process 0: connects to process 0."""

    _secret = ""

    def missing(self) -> str:
        return "the other processes" if self._peers else f"process 0 at {self._host}:{self._port}"

    async def gather(self, seconds: float) -> None:
        reader, writer = await self._connect(seconds)
        self._peers[0] = writer
        self._send(f"member {self._process} {self._num_processes}")
        self._begin(self._send_heartbeats())
        await self._await_admission(reader)
        self._begun = True
        self._open.append(await asyncio.start_unix_server(self._relay, self.service))
        self._begin(self._watch(0, reader))

    async def _connect(self, seconds: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reason, until = "no answer", self._loop.time() + seconds
        while (left := until - self._loop.time()) > 0:
            try:
                return await asyncio.wait_for(asyncio.open_connection(self._host, self._port), left)
            except OSError as error:  # a TimeoutError is an OSError
                reason = _reason(error) or reason
            await asyncio.sleep(0.05)
        where = f"process 0 can't be reached at {self._host}:{self._port} in {seconds:g} s"
        raise RunError(f"{where} ({reason}); start it there, or give a longer --join-seconds")

    async def _await_admission(self, reader: asyncio.StreamReader) -> None:
        line = "\n"
        while line == "\n":  # a sign of life
            try:
                line = (await asyncio.wait_for(reader.readline(), self._lost_after)).decode()
            except (OSError, ValueError):
                line = ""
        match line.split(maxsplit=1):
            case ["go", secret]:
                self._secret = secret.strip()
            case ["refused", message]:
                raise InputError(message.strip())
            case ["missing", message]:
                raise RunError(message.strip())
            case _:
                where = f"{self._host}:{self._port}"
                raise RunError(f"process 0 left before all had come, or another program is at {where}; start all anew")

    async def _relay(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        """Connects JAX to its coordination service. For JAX, the connection stays open even when process 0 is gone."""
        self._open.append(to_near)
        with contextlib.suppress(OSError):
            far, to_far = await asyncio.open_connection(self._host, self._port)
            self._open.append(to_far)
            to_far.write(f"relay {self._secret}\n".encode())
            await asyncio.gather(pump(near, to_far), pump(far, to_near))


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    return os.strerror(error.errno) if error.errno else ""


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at the first usable address of the host. Port 0 leaves the port to the system."""
    last: OSError = socket.gaierror(socket.EAI_NONAME, "no such host")
    with contextlib.suppress(socket.gaierror):
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return socket.create_server(address, family=family)
            except OSError as error:
                last = error
    if isinstance(last, socket.gaierror) or last.errno == errno.EADDRNOTAVAIL:
        raise InputError(
            f"{host!r} is no address of this machine ({_reason(last)}); "
            "--coordinator is an address of process 0's machine"
        ) from last
    raise InputError(f"port {port} of this machine can't be used: {_reason(last)}; choose another") from last
