"""Exit status of every entry point: 0 after success, 2 for faults that the user can correct, 1 for a failed or
interrupted run, 141 if the reader of its output is gone. Commands that start processes end with 130 after Ctrl-C, see
`eval.launch`."""

import contextlib
import errno
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from prism_jax.errors import InputError, LostError, RunError, SaveError, one_line
from prism_jax.folders import held
from prism_jax.parallel import processes

_at_end = contextlib.ExitStack()
"""Callbacks to run when the command ends."""


def run(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Runs an entry point and exits with its status. Prints faults that the user can correct in one line, without a
    traceback."""
    # Orbax logs every file, and logs errors that it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell (`>&-`)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    with processes.end_all_on_error():
        try:
            with exit_on_broken_pipe(), _at_end:
                main(processes.join(argv))
        except InputError as error:
            _stop(str(error), 2)
        except SaveError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.stdout.flush()
            if not processes.several():
                os._exit(1)  # the interpreter would wait for threads of Orbax that never end
            raise SystemExit(1) from error
        except LostError as error:
            processes.wait_for_bond()
            _stop(str(error), 1)
        except RunError as error:
            _stop(str(error), 1)
        except KeyboardInterrupt:
            _stop("interrupted", 1)
        except Exception as error:
            if processes.is_lost_connection(error):
                processes.wait_for_bond()
                _stop(f"another process is gone: {one_line(error)}", 1)
            if not isinstance(error, OSError) or error.errno is None:
                raise
            where = f"{str(error.filename)[:200]}: " if error.filename else ""
            _stop(f"{where}{error.strerror}", 2 if error.errno == errno.ENAMETOOLONG else 1)


@contextlib.contextmanager
def exit_on_broken_pipe() -> Iterator[None]:
    """Wraps a command: if the reader of its output closes the pipe (`... | head`), the command ends silently, with the
    status of SIGPIPE.

    The signal itself stays ignored, as is Python's default: a socket whose other end is gone would raise it too.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # a later flush, at exit, would fail where nothing can catch it
    except BrokenPipeError as error:
        closed = [descriptor for descriptor in (1, 2) if _has_no_reader(descriptor)]
        if not closed:
            raise
        for descriptor in closed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        if isinstance(error.__context__, InputError | RunError):
            raise error.__context__ from None
        raise SystemExit(128 + signal.SIGPIPE) from None


def _has_no_reader(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def output_folder(path: str) -> Path:
    """Returns the folder for results, locked for this command until it ends.

    On processes other than 0 it is a scratch folder, which is deleted when the process ends; there, a command returns
    before its report. The folder is created if needed, and removed again if the command ends without writing there.
    Commands check their arguments before this call, and do slow work after it.

    Raises:
      InputError: if nothing can be written there, or another command writes there.
    """
    processes.from_terminal(lambda: _at_end.enter_context(held(path)))
    return Path(path) if processes.is_terminal() else processes.scratch_folder()


def _stop(message: str, status: int) -> None:
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)  # a file name may contain line breaks
    raise SystemExit(status)
