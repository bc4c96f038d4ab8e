"""Output folders of commands: locks against other processes, and what is written whole or not at all."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from prism_jax.errors import InputError, RunError

LOCK = ".in_use"
"""Name of the lock file in an output folder. It names the process that writes there. It is locked until that process
ends, and removed when the process is done."""

WRITES = "PRISM_JAX_WRITES"
"""Environment variable with the locked folder. Processes that a command starts may write to this folder too."""

LONGEST_BELOW = "x" * 128 + "/" + "x" * 128
"""Relative path as long as the longest one below an output folder: that of a checkpoint."""


def write(path: Path, content: str | bytes) -> None:
    """Writes a file completely or not at all."""
    with whole(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a path to write to, which becomes `path` on success. On failure, nothing remains, and `path` is unchanged.

    Raises:
      OSError: if the file could not be written. It names `path`, or another file that could not be read.
      RunError: if safetensors could not write it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)):  # a failed write names no file, a file that is read its own
            error.filename = str(path)
        raise
    except SafetensorError as error:
        raise RunError(f"{path} could not be written: {error}; make room, or choose another folder") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def held(path: str) -> Iterator[None]:
    """Locks a folder for this process and the processes that it starts. Creates it if needed.

    The lock ends with the process. On exit, folders that were created here are removed if they are empty.

    Raises:
      InputError: if nothing can be written there, or another process writes there.
    """
    if not path:
        raise InputError("the name of the folder for results is empty; give one")
    folder = Path(path)
    lock = FileLock(folder / LOCK, timeout=0)
    with ExitStack() as at_end:
        try:
            with suppress(FileNotFoundError):
                os.stat(folder / LONGEST_BELOW)
            if os.environ.get(WRITES) != str(folder.resolve()):
                for ancestor in (*reversed(folder.parents), folder):
                    if not ancestor.exists():  # created one by one, as in new/../name
                        ancestor.mkdir()
                        at_end.callback(_remove_if_empty, ancestor)
                lock.acquire()
                at_end.callback(_release, lock, os.environ.get(WRITES, ""))
                Path(lock.lock_file).write_text(f"process {os.getpid()} on {socket.gethostname()}")
                os.environ[WRITES] = str(folder.resolve())
        except Timeout:
            raise InputError(
                f"{path} is in use by {_holder_of(lock) or 'another command'}; wait until that has ended, "
                "or choose another folder"
            ) from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"can't write to {path[:200]!r}: {reason}; choose another folder") from error
        yield


def _holder_of(lock: FileLock) -> str | None:
    with suppress(OSError):  # the holder may have ended by now
        return Path(lock.lock_file).read_text()
    return None


def _release(lock: FileLock, outer: str) -> None:
    os.environ[WRITES] = outer
    with suppress(OSError):  # the folder may be gone
        Path(lock.lock_file).unlink()  # before the release: a process that has it open notices the removal
    lock.release()


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Creates a temporary folder and renames it to `folder` on success. On failure, nothing remains.

    Raises:
      InputError: if `folder` is not empty, its parent can't be written, or another process writes there.
      RunError: if a file could not be written.
      OSError: if a file elsewhere could not be read. It names that file.
    """
    check_empty(folder)
    folder = folder.expanduser().resolve()
    with held(str(folder)):
        try:
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        except OSError as error:
            raise InputError(f"can't write to {folder.parent}: {error.strerror}; choose another folder") from error
        try:
            yield partial
            partial.chmod(0o755)
            (folder / LOCK).unlink(missing_ok=True)
            partial.rename(folder)
        except (OSError, RunError) as error:
            if isinstance(error, OSError) and error.filename and not Path(error.filename).is_relative_to(partial):
                raise
            raise RunError(
                f"{folder} could not be written: {error.__cause__ or error}; nothing is left of it"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_empty(folder: Path) -> None:
    """Raises InputError if an output folder is not empty."""
    folder = folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())):
        raise InputError(f"{folder} is not empty; choose another folder")
