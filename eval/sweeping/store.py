"""Finished records on disk: a sweep resumes after an interruption, and skips records whose inputs are unchanged."""

import ast
import hashlib
import importlib.util
import inspect
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eval.reporting.records import StoredFields
from eval.scoring.measure import Measured
from prism_jax import records
from prism_jax.data import datasets
from prism_jax.exchange.base import Exchange, as_tuple
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.exchange.wrapped import Wrapped, wire_of
from prism_jax.folders import whole, write
from prism_jax.models.base import Model
from prism_jax.tasks.base import Task
from prism_jax.tasks.inputs import Images
from prism_jax.trees import flatten


@dataclass(frozen=True)
class Store:
    """A folder of finished records, each under the digest of its inputs.

    Attributes:
      folder: folder with KEY.json, the fields of `Measured`, and KEY.npy, its outcomes.
    """

    folder: Path

    def load(self, key: str) -> Measured | None:
        """Returns the record that `save` wrote; None if it is missing or damaged."""
        try:
            fields: Any = records.parse((self.folder / f"{key}.json").read_bytes(), StoredFields)
            return Measured(fields, np.load(self.folder / f"{key}.npy"))
        except (OSError, ValueError, EOFError):
            return None

    def save(self, key: str, measured: Measured) -> None:
        """Writes a record under its key."""
        self.folder.mkdir(exist_ok=True)
        with whole(self.folder / f"{key}.npy") as partial, partial.open("wb") as file:
            np.save(file, measured.outcomes)
        write(self.folder / f"{key}.json", json.dumps(measured.fields))


def digest(*values: Any) -> str:
    """Returns a digest of bytes, arrays and texts, in their order."""
    sha = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            sha.update(f"{value.dtype}{value.shape}".encode())
            value = np.ascontiguousarray(value).tobytes()
        sha.update(value if isinstance(value, bytes) else str(value).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:32]


def digest_of_params(params: Any) -> str:
    """Returns a digest of the paths and values of parameters."""
    return digest(*(x for path, value in sorted(flatten(params).items()) for x in (path, np.asarray(value))))


def digest_of_task(task: Task, num_tokens: int) -> str:
    """Returns a digest of labels, lengths and arrays: all arrays of texts; for images, 32 decoded ones and the stored
    bytes of all."""
    count = len(task.lengths)
    images = task.inputs.images if isinstance(task.inputs, Images) else ()
    index = np.unique(np.linspace(0, count - 1, 32).astype(int)) if images else np.arange(count)
    arrays, targets = task.arrays(index, num_tokens, None)
    labels = "none" if task.labels is None else np.asarray(task.labels)
    rows = (np.asarray(arrays[name]) for name in sorted(arrays))
    return digest(
        type(task).__name__, task.metrics, labels, task.lengths, np.asarray(targets), *rows, datasets.digest(images)
    )


def digest_of_exchange(setting: Setting) -> str:
    """Returns a digest of an exchange: its text, and the files of its class, its base classes, the exchange that it
    wraps, and its wire format. So a change of a user's exchange gives a new record.
    """
    return digest(
        text_of(setting.exchange), *(x for exchange in as_tuple(setting.exchange) for x in sources_of(exchange))
    )


def sources_of(exchange: Exchange) -> list[bytes | str]:
    """Returns the contents of the files that define an exchange: those of its class, its base classes, its wire format,
    and the exchange that it wraps."""
    wrapped = sources_of(exchange.of) if isinstance(exchange, Wrapped) else []
    return [*wrapped, *map(source_of, (*type(exchange).__mro__, *type(wire_of(exchange)).__mro__))]


def digest_of_model(model: Model) -> str:
    """Returns a digest of a model's config, and of the files of its class and its base classes."""
    return digest(repr(model), *map(source_of, type(model).__mro__))


def source_of(kind: type) -> bytes | str:
    """Returns the contents of the file that defines a class; the name of the class if there is no file."""
    try:
        return Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):  # defined at an interactive prompt
        return kind.__qualname__


def digest_of_library(*modules: str) -> str:
    """Returns a digest of modules and of all modules of this repository that they import, JAX's version and the device.

    A record with another digest must run again.

    Args:
      modules: names of modules. Modules that run as separate processes must be listed too, since nothing imports them.
    """
    sources = (path.read_bytes() for path in import_closure(*modules))
    return digest(jax.__version__, jax.devices()[0].device_kind, *sources)


def import_closure(*modules: str) -> list[Path]:
    """Returns the files of modules, and of all modules of this repository that they import, directly or indirectly."""
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in files or name.partition(".")[0] not in ("prism_jax", "eval"):
            continue
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # not a module, but a name inside one
            continue
        if spec is None or spec.origin is None:
            continue
        files[name] = Path(spec.origin)
        waiting.append(name.rpartition(".")[0])
        waiting += _imported_names(files[name].read_bytes())
    return sorted(files.values())


@lru_cache(maxsize=1024)
def _imported_names(source: bytes) -> tuple[str, ...]:
    """Returns the names that a module imports: modules, and names that may be modules inside them."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)
