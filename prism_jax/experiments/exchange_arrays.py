"""Files with the arrays of exchanges, see `prism_jax.exchange.arrays`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.exchange.arrays import EXCHANGE
from prism_jax.trees import flatten, unflatten
from prism_jax.weights import Pretrained

FILE = "exchange.safetensors"


def save(path: Path, arrays: Mapping[str, Any], dtype: str = "float32") -> None:
    """Writes the arrays of exchanges, by the name of the exchange and by block.

    Raises:
      InputError: if a number is beyond the range of the type.
    """
    tensors = {name: np.asarray(x, np.float32) for name, x in flatten({EXCHANGE: dict(arrays)}).items()}
    if beyond := [name for name, x in tensors.items() if np.abs(x).max(initial=0) > np.finfo(dtype).max]:
        raise InputError(f"{beyond[0]} has numbers beyond the range of {dtype}; choose float32")
    hub.write_file(path, {name: x.astype(dtype) for name, x in tensors.items()})


def with_arrays(pretrained: Pretrained, path: str | None) -> Pretrained:
    """Returns the model with the arrays in a file among its parameters, or unchanged without a file.

    Raises:
      InputError: if the file is missing or damaged, or holds something else.
    """
    if path is None:
        return pretrained
    tensors = hub.read_file(Path(path))
    wrong = [name for name, x in tensors.items() if not name.startswith(f"{EXCHANGE}/") or hub.no_floats(x)]
    if wrong or not tensors:
        raise InputError(
            f"{path} holds {', '.join(wrong[:3]) or 'nothing'}, no arrays of exchanges; give a file of train.calibrate"
        )
    arrays = unflatten({name: np.asarray(x, np.float32) for name, x in tensors.items()})
    return replace(pretrained, params={**pretrained.params, **arrays})
