"""Trees of parameters, by path."""

from collections.abc import Mapping
from typing import Any

import flax
import jax


def count(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


def flatten(params: Any) -> dict[str, Any]:
    """Parameters by path: `encoder/blocks/block_0/mlp/up/kernel`."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def unflatten(params: Mapping[str, Any]) -> Any:
    """The other way of `flatten`."""
    return flax.traverse_util.unflatten_dict(params, sep="/")
