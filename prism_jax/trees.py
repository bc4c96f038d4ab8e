"""Helpers for parameter trees: counts, and flat dicts by path."""

from collections.abc import Mapping
from typing import Any

import flax
import jax


def count(params: Any) -> int:
    """Returns the number of values in a tree of arrays."""
    return sum(x.size for x in jax.tree.leaves(params))


def flatten(params: Any) -> dict[str, Any]:
    """Returns the parameters by path, for example `encoder/blocks/block_0/mlp/up/kernel`."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def unflatten(params: Mapping[str, Any]) -> Any:
    """Returns the tree of a flat dict: the inverse of `flatten`."""
    return flax.traverse_util.unflatten_dict(params, sep="/")
