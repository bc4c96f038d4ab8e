"""Files with the arrays of exchanges, see `prism_jax.exchange.arrays`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.exchange.arrays import EXCHANGE, bind
from prism_jax.exchange.base import Exchanges
from prism_jax.models.base import Model
from prism_jax.parallel.processes import from_terminal
from prism_jax.trees import flatten, unflatten
from prism_jax.weights import Pretrained

FILE = "exchange.safetensors"
NAME = re.compile(rf"{EXCHANGE}/[^/]+/block_\d+/[^/]+")


def save(path: Path, arrays: Mapping[str, Any], source: str, dtype: str = "float32") -> None:
    """Writes the arrays of exchanges.

    Args:
      path: of the file.
      arrays: by the name of the exchange, by block, and by the name of the array.
      source: weights that the arrays were made for. The file notes them.
      dtype: "float32" or "float16".

    Raises:
      InputError: if a number is not finite, or beyond the range of the type.
    """
    tensors = {name: np.asarray(x, np.float32) for name, x in flatten({EXCHANGE: dict(arrays)}).items()}
    for name, x in tensors.items():
        if not (np.abs(x) <= np.finfo(dtype).max).all():
            raise InputError(f"{name} has numbers beyond the range of {dtype}; choose float32, or other weights")
    hub.write_file(path, {name: x.astype(dtype) for name, x in tensors.items()}, notes={"source": source})


def check(path: str | None) -> None:
    """Raises InputError if process 0 has no such file. Reads nothing. All processes call it."""

    def check_here() -> None:
        if path is not None and not Path(path).is_file():
            raise InputError(f"no file {path!r}; make it with train.calibrate, and give it with --exchange-arrays")

    from_terminal(check_here)


def check_complete(path: str | None, model: Model, exchanges: Iterable[Exchanges]) -> None:
    """Checks the arrays of exchanges before the weights of a model are read, if no run may have trained some.

    Raises:
      InputError: if a file lacks some that have no start, or they don't fit the model.
    """
    params, stack = with_arrays(Pretrained(model, {}), path).params, model.config.stack
    for exchange in exchanges:
        bind(exchange, params, stack.num_layers, stack.width_of)


def source_of(path: str) -> str:
    """Returns the weights that the arrays in a file were made for, as the file notes them."""
    return hub.read_notes(Path(path)).get("source", "unknown weights")


def with_arrays(pretrained: Pretrained, path: str | None) -> Pretrained:
    """Returns the model with the arrays in a file among its parameters, or unchanged without a file. Arrays that the
    model has already, from a run that trained them, stay.

    Raises:
      InputError: if the file is missing or damaged, or holds something else.
    """
    if path is None:
        return pretrained
    read = from_terminal(lambda: _read(path))
    return replace(pretrained, params=unflatten(read | flatten(pretrained.params)))


def _read(path: str) -> dict[str, np.ndarray]:
    """Returns the arrays in a file by their paths in a tree of parameters."""
    tensors = hub.read_file(Path(path))
    wrong = [name for name, x in tensors.items() if not NAME.fullmatch(name) or hub.no_floats(x)]
    if wrong or not tensors:
        raise InputError(
            f"{path} holds {', '.join(wrong[:3]) or 'nothing'}, no arrays of exchanges; give a file of train.calibrate"
        )
    arrays = {name: np.asarray(x, np.float32) for name, x in tensors.items()}
    if damaged := [name for name, x in arrays.items() if not np.isfinite(x).all()]:
        raise InputError(f"{path} holds numbers that are not finite, in {damaged[0]}; make it again")
    return arrays
