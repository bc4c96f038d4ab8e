"""Folders that are written whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from prism_jax.errors import InputError, RunError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to be filled, which becomes `folder` when it is full; if something fails, nothing is left of it.

    Raises:
      InputError: if there is something in `folder`, or nothing can be written beside it.
      RunError: if not all could be written.
    """
    check_empty(folder)
    folder = folder.expanduser().resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"can't write to {folder.parent}: {error.strerror}; choose another folder") from error
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder} could not be written: {error}; nothing is left of it") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_empty(folder: Path) -> None:
    """Raises InputError if there is something in a folder to be written."""
    folder = folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; choose another folder")
