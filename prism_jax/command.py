"""How every entry point ends: 0 after success, 2 for what the user can mend, 1 for a failed run."""

import contextlib
import logging
import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from prism_jax import processes
from prism_jax.errors import InputError, RunError


def run(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Runs an entry point and exits with its status. What the user can mend is one line, without a traceback."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every file
    with processes.ending():
        try:
            with while_it_is_read():
                main(processes.join(argv))
        except InputError as error:
            _stop(str(error), 2)
        except RunError as error:
            _stop(str(error), 1)
        except KeyboardInterrupt:
            _stop("interrupted", 1)
        except Exception as error:
            if not processes.says_lost(error):
                raise
            processes.let_bond_speak()
            _stop(f"another process is gone: {' '.join(str(error).split())[:200]}", 1)


@contextlib.contextmanager
def while_it_is_read() -> Iterator[None]:
    """Around a command: where the reader of its output goes away (`... | head`), it ends in silence and with the status of SIGPIPE.

    The signal itself stays ignored, as Python has it: it would also come from a socket whose other end is gone.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # what is left would be written, and fail, where nothing can catch it
    except BrokenPipeError as error:
        gone = [descriptor for descriptor in (1, 2) if _has_no_reader(descriptor)]
        if not gone:
            raise
        for descriptor in gone:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        if isinstance(error.__context__, InputError | RunError):
            raise error.__context__ from None
        raise SystemExit(128 + signal.SIGPIPE) from None


def _has_no_reader(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def output_folder(path: str) -> Path:
    """The folder for results, made if need be; beside the terminal, one that goes when the process ends.

    Raises:
      InputError: if nothing can be written there.
    """
    if not processes.is_terminal():
        return processes.scratch_folder()
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"can't write to {path!r}: {error.strerror}; choose another folder") from error


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def _stop(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status)
