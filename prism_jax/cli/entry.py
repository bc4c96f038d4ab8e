"""How every entry point ends: 0 after success, 2 for what the user can mend, 1 for a failed run."""

import contextlib
import errno
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from prism_jax.errors import InputError, RunError, SaveError, one_line
from prism_jax.folders import held
from prism_jax.parallel import processes

_at_end = contextlib.ExitStack()
"""What is left to do when the command ends."""


def run(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Runs an entry point and exits with its status. What the user can mend is one line, without a traceback."""
    # Orbax tells of every file, and raises what it logs as an error.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed (`>&-`)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    with processes.ending():
        try:
            with while_it_is_read(), _at_end:
                main(processes.join(argv))
        except InputError as error:
            _stop(str(error), 2)
        except SaveError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.stdout.flush()
            if not processes.several():
                os._exit(1)  # the interpreter would wait for threads of Orbax that wait for what has failed
            raise SystemExit(1) from error
        except RunError as error:
            _stop(str(error), 1)
        except KeyboardInterrupt:
            _stop("interrupted", 1)
        except Exception as error:
            if processes.says_lost(error):
                processes.let_bond_speak()
                _stop(f"another process is gone: {one_line(error)}", 1)
            if not isinstance(error, OSError) or error.errno is None:
                raise
            where = f"{str(error.filename)[:200]}: " if error.filename else ""
            _stop(f"{where}{error.strerror}", 2 if error.errno == errno.ENAMETOOLONG else 1)


@contextlib.contextmanager
def while_it_is_read() -> Iterator[None]:
    """Around a command: where the reader of its output goes away (`... | head`),
    it ends in silence and with the status of SIGPIPE.

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
    """Returns the folder for results, which belongs to this command until it ends.

    On processes other than 0 it is a scratch folder, which goes when the process ends; there a command returns before
    its report. The folder is made if need be, and removed again if the command ends without having written there.
    Checks of the arguments stand before the call, long work after it.

    Raises:
      InputError: if nothing can be written there, or another command writes there.
    """
    processes.from_terminal(lambda: _at_end.enter_context(held(path)))
    return Path(path) if processes.is_terminal() else processes.scratch_folder()


def write(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)  # a write that fails names no file
        raise
    finally:
        partial.unlink(missing_ok=True)


def _stop(message: str, status: int) -> None:
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)  # a name may hold anything
    raise SystemExit(status)
