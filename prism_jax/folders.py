"""The folders that commands write: whose they are, and those that are written whole or not at all."""

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
"""The file that says which process writes a folder: locked for as long as that process lives,
removed when it is done."""

WRITES = "PRISM_JAX_WRITES"
"""The environment variable that tells the processes that a command starts which folder is theirs."""

LONGEST_BELOW = "x" * 128 + "/" + "x" * 128
"""As long as the names below a folder get: those of a checkpoint."""


@contextmanager
def held(path: str) -> Iterator[None]:
    """A folder, made if need be, in which no other process writes meanwhile but those that this one starts.

    The kernel frees it when the process dies. What was made goes again if nothing was written there.

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
                for one in (*reversed(folder.parents), folder):
                    if not one.exists():  # now: what was made may be the way to it, as in new/../one
                        one.mkdir()
                        at_end.callback(_remove_if_empty, one)
                lock.acquire()
                at_end.callback(_let_go, lock, os.environ.get(WRITES, ""))
                Path(lock.lock_file).write_text(f"process {os.getpid()} on {socket.gethostname()}")
                os.environ[WRITES] = str(folder.resolve())
        except Timeout:
            raise InputError(
                f"{path} is in use by {_holder(lock) or 'another command'}; wait until that has ended, "
                "or choose another folder"
            ) from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"can't write to {path[:200]!r}: {reason}; choose another folder") from error
        yield


def _holder(lock: FileLock) -> str | None:
    with suppress(OSError):  # it may have ended by now
        return Path(lock.lock_file).read_text()
    return None


def _let_go(lock: FileLock, before: str) -> None:
    os.environ[WRITES] = before
    with suppress(OSError):  # the folder may be gone
        Path(lock.lock_file).unlink()  # before it is released: who has it open then sees that it is gone
    lock.release()


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to be filled, which becomes `folder` when it is full; if something fails, nothing is left of it.

    Raises:
      InputError: if there is something in `folder`, nothing can be written beside it, or another process writes there.
      RunError: if not all could be written.
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
        except (OSError, SafetensorError) as error:
            raise RunError(f"{folder} could not be written: {error}; nothing is left of it") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_empty(folder: Path) -> None:
    """Raises InputError if there is something in a folder to be written."""
    folder = folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())):
        raise InputError(f"{folder} is not empty; choose another folder")
