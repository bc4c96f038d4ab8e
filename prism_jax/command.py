"""How every entry point ends: 0 after success, 2 for what the user can mend, 1 for a failed run."""

import atexit
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from prism_jax import processes
from prism_jax.errors import InputError, RunError


def run(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Runs an entry point and exits with its status. What the user can mend is one line, without a traceback."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every file
    with processes.ending():
        try:
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
            _stop(f"another process is gone: {' '.join(str(error).split())[:200]}", 1)


def output_folder(path: str) -> Path:
    """The folder for results, made if need be; beside the terminal, one that goes when the process ends.

    Raises:
      InputError: if nothing can be written there.
    """
    if not processes.is_terminal():
        scratch = tempfile.TemporaryDirectory(prefix="prism_jax_")
        atexit.register(scratch.cleanup)
        return Path(scratch.name)
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
