"""Division of parameters into trained and frozen ones."""

import re
from collections.abc import Collection
from typing import Any

import jax

from prism_jax.errors import InputError
from prism_jax.exchange.arrays import EXCHANGE
from prism_jax.experiments.recipe import Training
from prism_jax.layers import lora
from prism_jax.trees import flatten, unflatten


def divide(params: Any, training: Training, of_exchanges: Collection[str] = ()) -> tuple[Any, Any]:
    """Returns the trained parameters and the frozen parameters.

    Both trees have the structure of `params`. Each has None for the parameters of the other; `combine` joins them.

    Args:
      params: all parameters.
      training: says which are trained.
      of_exchanges: paths of the arrays of exchanges that are trained.

    Raises:
      InputError: if nothing is left to train, or a pattern matches no parameter.
    """
    flat = flatten(params)
    for pattern in training.frozen:
        if not any(re.fullmatch(pattern, path) for path in flat):
            raise InputError(
                f"training.frozen has {pattern!r}, which is no parameter's path; they are like {next(iter(flat))}"
            )

    def is_trained(path: str) -> bool:
        of_exchange = path.split("/")[0] == EXCHANGE
        if path.endswith("lora_scale") or (of_exchange and path not in of_exchanges):
            return False
        if (
            training.lora_rank
            and not of_exchange
            and not lora.is_trained(path.split("/"))
            and path.split("/")[0] not in training.fresh
        ):
            return False
        return not any(re.fullmatch(pattern, path) for pattern in training.frozen)

    trained = {path: value if is_trained(path) else None for path, value in flat.items()}
    frozen = {path: value if trained[path] is None else None for path, value in flat.items()}
    if all(value is None for value in trained.values()):
        raise InputError("training.frozen leaves no parameter to train; name fewer")
    return unflatten(trained), unflatten(frozen)


def combine(trained: Any, frozen: Any) -> Any:
    """Returns all parameters, from the two trees of `divide`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda x: x is None)


def without_none(tree: Any) -> Any:
    """Returns a tree whose dicts contain no None and no empty dict: the form of checkpoints on disk.

    The leaves are those of `tree`, in the same order.
    """

    def clean(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return unflatten({path: leaf for path, leaf in flatten(node).items() if leaf is not None})

    return jax.tree.map(clean, tree, is_leaf=lambda node: isinstance(node, dict))
