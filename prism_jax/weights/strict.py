"""Checks that the tensors of a file are those that a model needs."""

from collections.abc import Mapping
from typing import Any

from prism_jax.assets import hub


def faults(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Any]) -> dict[str, str]:
    """Returns a message for each tensor that is missing, of another shape, or no floating point numbers.

    Args:
      wanted: shapes by name.
      tensors: of the file, by the same names. More of them may be there.
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
