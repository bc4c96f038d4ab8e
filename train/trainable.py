"""Division of parameters into trained and frozen ones."""

import re
from collections.abc import Collection, Sequence
from typing import Any

import jax

from prism_jax.errors import InputError
from prism_jax.exchange import arrays
from prism_jax.exchange.arrays import EXCHANGE
from prism_jax.exchange.base import Exchanges
from prism_jax.experiments.build import with_adapters
from prism_jax.experiments.exchange_arrays import with_arrays
from prism_jax.experiments.recipe import Experiment, Training
from prism_jax.layers import lora
from prism_jax.models.base import Model
from prism_jax.programs import params_shapes
from prism_jax.trees import flatten, unflatten
from prism_jax.weights import Pretrained


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


def check(experiment: Experiment, model: Model, exchanges: Sequence[Exchanges]) -> None:
    """Raises the errors of `divide`, and those of adapters, before the weights of a model are read.

    Args:
      experiment: the experiment to train, from its own weights.
      model: the model without parameters.
      exchanges: those in training.
    """
    training, stack = experiment.training, model.config.stack
    adapters = training.lora_rank, training.lora_alpha, training.seed
    shapes = jax.eval_shape(lambda params: with_adapters(params, *adapters), params_shapes(model))
    starts = jax.eval_shape(lambda: arrays.starts(exchanges, stack.num_layers, stack.width_of))
    params = with_arrays(Pretrained(model, shapes), experiment.exchange_arrays).params
    divide(unflatten(starts | flatten(params)), training, starts)


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
