"""Connections between the processes of a run: signs of life, the exit status, and reports of lost processes.

Process 0 has a connection to every other process, see `meeting`. The messages between JAX's coordination service and
its clients also go through our connections. So JAX never sees another process end: it would abort with a stack trace,
and would not name the lost process.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path

from prism_jax.errors import InputError

GRACE_SECONDS = 2.0
"""Seconds that a process has to report its own error after another process has ended."""

LONGEST_SOCKET_NAME = 100
"""Longest name of a socket file, in bytes. Linux allows 107, macOS 103."""


class Bond:
    """Connections of one process to the other processes of its run. They run in a separate thread.

    Attributes:
      service: the socket file at which this process reaches JAX's coordination service. On process 0, the service
        listens there. Only the user who started the process can enter its folder.
    """

    def __init__(self, host: str, port: int, num_processes: int, process: int, lost_after: float):
        self._host, self._port = host, port
        self._num_processes, self._process, self._lost_after = num_processes, process, lost_after
        self._folder = tempfile.mkdtemp(prefix="prism_jax_")
        self.service = Path(self._folder) / "service"
        if len(str(self.service)) > LONGEST_SOCKET_NAME:
            self.clean()
            raise InputError(
                f"{tempfile.gettempdir()!r} is too long for the name of a socket; set TMPDIR to a shorter one"
            )
        self._peers: dict[int, asyncio.StreamWriter] = {}
        self._begun = self._lost = self._over = False
        self._open: list[asyncio.Server | asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task] = set()
        self._watches: set[asyncio.Task] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        """Name or address of this process, at which the others reach it."""
        return self._peers[0].get_extra_info("sockname")[0] if self._process else self._host

    def clean(self) -> None:
        """Removes the socket file, which JAX does not need once it is connected, and the scratch folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def scratch(self) -> Path:
        """Returns a temporary folder that is deleted when this process ends."""
        self._folder = tempfile.mkdtemp(prefix="prism_jax_")
        return Path(self._folder)

    def leave(self) -> None:
        """Sends a last message to the other processes, which are done as well, and closes all connections."""
        if not self._over:
            self._over = True
            self.wait(self._send_last("bye", 2 * GRACE_SECONDS))
            self.close()

    def end(self, status: int) -> None:
        """Ends this process with a status, and with it the others. The error has been printed before."""
        self._over = True
        try:
            self.wait(self._send_last(f"ended {self._process} {status}", 2 * GRACE_SECONDS))
        finally:
            self.clean()
            os._exit(status)

    def close(self) -> None:
        """Closes all connections."""
        self._over = True
        self.clean()
        self.wait(self._close_connections())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait(self, work: Coroutine) -> None:
        """Runs a coroutine in the thread of the connections, and waits for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _close_connections(self) -> None:
        for task in self._tasks:
            task.cancel()
        for connection in (*self._open, *self._peers.values()):
            connection.close()
        # The remaining tasks end with their connections.
        if remaining := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(remaining, timeout=GRACE_SECONDS)

    def _begin(self, work: Coroutine) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the event loop holds weak references only
        task.add_done_callback(self._tasks.discard)

    def _send(self, line: str) -> None:
        for writer in self._peers.values():
            with contextlib.suppress(OSError, RuntimeError):
                writer.write(f"{line}\n".encode())

    async def _send_last(self, line: str, seconds: float) -> None:
        """Sends a last line, and waits until the other processes close their connections."""
        self._send(line)
        for writer in self._peers.values():
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()
        if watches := self._watches - {asyncio.current_task()}:
            await asyncio.wait(watches, timeout=seconds)

    async def _send_heartbeats(self) -> None:
        while not self._over:
            self._send("")
            await asyncio.sleep(self._lost_after / 4)

    async def _watch(self, process: int, reader: asyncio.StreamReader) -> None:
        """Reads the lines of another process until its connection ends."""
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        expected, why = False, "is gone"
        while True:
            try:
                line = (await asyncio.wait_for(reader.readline(), self._lost_after)).decode(errors="replace")
            except TimeoutError:
                line, why = "", f"was not heard from for {self._lost_after:g} s"
            except (OSError, ValueError):
                line = ""
            match line.split(maxsplit=2):
                case ["bye"]:
                    expected = True
                case ["ended", who, status]:
                    expected = True
                    self._begin(self._follow(who, int(status)))
                case ["lost", who, reason]:
                    self._stop(who, reason.strip(), 1)
            if not line:
                break
        self._watches.discard(task)
        if not self._begun:
            del self._peers[process]  # the process may connect again
        elif not (expected or self._lost or self._over):
            self._lost = True  # the processes that get this message will end too
            if self._process == 0:
                del self._peers[process]
                await self._send_last(f"lost {process} {why}", GRACE_SECONDS)
            self._stop(str(process), why, 1)

    async def _follow(self, who: str, status: int) -> None:
        """Ends this process after another one has ended, unless this process reports its own error first."""
        if self._process == 0:
            self._send(f"ended {who} {status}")
        await asyncio.sleep(GRACE_SECONDS)
        self._stop(who, f"has ended with status {status}", status)

    def _stop(self, who: str, why: str, status: int) -> None:
        if not self._over:
            say(f"error: process {who} {why}; this process ends with it")
            self.clean()
            os._exit(status)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies bytes from a reader to a writer until the connection ends."""
    with contextlib.suppress(OSError):
        while read := await reader.read(1 << 16):
            writer.write(read)
            await writer.drain()


def say(line: str) -> None:
    """Prints a line to standard error. Avoids `sys.stderr`, whose lock the main thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
