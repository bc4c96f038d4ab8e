"""Checks that a file has the tensors that a model needs."""

from collections.abc import Mapping
from typing import Any

from prism_jax.assets import hub


def faults(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Any]) -> dict[str, str]:
    """Returns a message for each tensor that is missing, of another shape, or not floating point.

    Args:
      wanted: the needed shapes, by name.
      tensors: tensors of the file, by name. There may be more.
    """
    messages = {}
    for name, shape in wanted.items():
        tensor = tensors.get(name)
        if tensor is None:
            messages[name] = f"{name} is missing"
        elif tensor.shape != shape:
            messages[name] = f"{name} has shape {tensor.shape}, not {shape}"
        elif reason := hub.no_floats(tensor):
            messages[name] = f"{name} {reason}"
    return messages
