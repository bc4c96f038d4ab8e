"""What binds the processes of a run: each says that it lives, and how it ends, and each learns which other one is gone.

Process 0 has a connection to every other process, see `meeting`. What JAX's coordination service and its clients say to
each other goes through connections of ours as well. So JAX never sees the end of another process: it would abort with a
stack trace, and would not say who is gone.
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
"""So long a process may take to say itself why it ends, after another has ended."""

LONGEST_SOCKET_NAME = 100
"""Linux takes 107 bytes, macOS 103."""


class Bond:
    """The connections of one process to the others of its run. They live in a thread of their own.

    Attributes:
      service: the socket file at which this process reaches JAX's coordination service; on process 0, where it listens.
        Its folder can be entered by its user alone.
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

    def clean(self) -> None:
        """Removes the socket file, which JAX does not need once it is connected, and the scratch folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def scratch(self) -> Path:
        """A folder that goes with this process."""
        self._folder = tempfile.mkdtemp(prefix="prism_jax_")
        return Path(self._folder)

    def leave(self) -> None:
        """Takes leave of the others, who are done as well."""
        if not self._over:
            self._over = True
            self.wait(self._say_last("bye", 2 * GRACE_SECONDS))
            self.close()

    def end(self, status: int) -> None:
        """Ends this process with a status, and with it the others. It has said why."""
        self._over = True
        try:
            self.wait(self._say_last(f"ended {self._process} {status}", 2 * GRACE_SECONDS))
        finally:
            self.clean()
            os._exit(status)

    def close(self) -> None:
        """Closes all connections."""
        self._over = True
        self.clean()
        self.wait(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait(self, work: Coroutine) -> None:
        """Has the other thread do something, and waits for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _shut(self) -> None:
        for task in self._tasks:
            task.cancel()
        for one in (*self._open, *self._peers.values()):
            one.close()
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:  # they see their connections end
            await asyncio.wait(rest, timeout=GRACE_SECONDS)

    def _begin(self, work: Coroutine) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop alone would not keep it
        task.add_done_callback(self._tasks.discard)

    def _say(self, line: str) -> None:
        for writer in self._peers.values():
            with contextlib.suppress(OSError, RuntimeError):
                writer.write(f"{line}\n".encode())

    async def _say_last(self, line: str, seconds: float) -> None:
        """Says a line, and waits for the others to go."""
        self._say(line)
        for writer in self._peers.values():
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()
        if watches := self._watches - {asyncio.current_task()}:
            await asyncio.wait(watches, timeout=seconds)

    async def _beat(self) -> None:
        while not self._over:
            self._say("")
            await asyncio.sleep(self._lost_after / 4)

    async def _watch(self, process: int, reader: asyncio.StreamReader) -> None:
        """Reads what a process says until its connection ends."""
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
                case ["lost", who, said]:
                    self._stop(who, said.strip(), 1)
            if not line:
                break
        self._watches.discard(task)
        if not self._begun:
            del self._peers[process]  # it may come again
        elif not (expected or self._lost or self._over):
            self._lost = True  # those who are told of it will be gone too
            if self._process == 0:
                del self._peers[process]
                await self._say_last(f"lost {process} {why}", GRACE_SECONDS)
            self._stop(str(process), why, 1)

    async def _follow(self, who: str, status: int) -> None:
        """Ends this process because another has ended, unless it says itself why."""
        if self._process == 0:
            self._say(f"ended {who} {status}")
        await asyncio.sleep(GRACE_SECONDS)
        self._stop(who, f"has ended with status {status}", status)

    def _stop(self, who: str, why: str, status: int) -> None:
        if not self._over:
            say(f"error: process {who} {why}; this process ends with it")
            self.clean()
            os._exit(status)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes on what comes until it ends."""
    with contextlib.suppress(OSError):
        while read := await reader.read(1 << 16):
            writer.write(read)
            await writer.drain()


def say(line: str) -> None:
    """Prints to standard error, not by way of `sys.stderr`, which the main thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
