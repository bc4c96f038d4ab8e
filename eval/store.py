"""Finished rows on disk: a sweep goes on where it was stopped, and does not run again what would come out the same."""

import hashlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import prism_jax
from prism_jax.command import write
from prism_jax.exchange import several, text_of
from prism_jax.prediction import Setting
from prism_jax.task import Task
from prism_jax.weights import flatten


@dataclass(frozen=True)
class Store:
    """A folder of finished rows, each under the digest of all that it follows from.

    Attributes:
      folder: holds KEY.json, what was measured, and KEY.npy, what was kept of each example.
    """

    folder: Path

    def load(self, key: str) -> tuple[dict, np.ndarray] | None:
        """What `save` wrote; None where there is nothing, or something damaged."""
        try:
            return json.loads((self.folder / f"{key}.json").read_text()), np.load(self.folder / f"{key}.npy")
        except (OSError, ValueError, EOFError):
            return None

    def save(self, key: str, measured: dict, outcomes: np.ndarray) -> None:
        self.folder.mkdir(exist_ok=True)
        np.save(self.folder / f"{key}.npy", outcomes)
        write(self.folder / f"{key}.json", json.dumps(measured))


def digest(*things: Any) -> str:
    """Of bytes, arrays and texts, in their order."""
    sha = hashlib.sha256()
    for thing in things:
        if isinstance(thing, np.ndarray):
            sha.update(f"{thing.dtype}{thing.shape}".encode())
            thing = np.ascontiguousarray(thing).tobytes()
        sha.update(thing if isinstance(thing, bytes) else str(thing).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:32]


def digest_of_params(params: Any) -> str:
    return digest(*(x for path, value in sorted(flatten(params).items()) for x in (path, np.asarray(value))))


def digest_of_task(task: Task, num_tokens: int) -> str:
    """Of the labels and lengths of all rows, and of 32 rows themselves: images would take long to decode."""
    some = np.unique(np.linspace(0, len(task.lengths) - 1, 32).astype(int))
    arrays, _ = task.arrays(some, num_tokens, None)
    labels = "none" if task.labels is None else np.asarray(task.labels)
    return digest(type(task).__name__, labels, task.lengths, *(np.asarray(arrays[name]) for name in sorted(arrays)))


def digest_of_exchange(setting: Setting) -> str:
    """Of its text and its source: a change of one's own exchange is a new row."""
    return digest(text_of(setting.exchange), *(source_of(type(one)) for one in several(setting.exchange)))


def source_of(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed at a prompt
        return kind.__qualname__


def digest_of_library() -> str:
    """Of all source files of prism_jax, the JAX that runs them and where: what is no longer the same must run again."""
    folder = Path(prism_jax.__file__).parent
    sources = (path.read_bytes() for path in sorted(folder.rglob("*.py")))
    return digest(jax.__version__, jax.default_backend(), *sources)
