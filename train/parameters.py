"""Which parameters are trained."""

import re
from typing import Any

from prism_jax.errors import InputError
from prism_jax.experiments.recipe import Training
from prism_jax.layers import lora
from prism_jax.trees import flatten, unflatten


def divide(params: Any, training: Training) -> tuple[Any, Any]:
    """The parameters that are trained, and those that stay as they are.

    Raises:
      InputError: if nothing is left to train, or a pattern meets no parameter.
    """
    flat = flatten(params)
    for pattern in training.frozen:
        if not any(re.fullmatch(pattern, path) for path in flat):
            raise InputError(
                f"training.frozen has {pattern!r}, which is no parameter's path; they are like {next(iter(flat))}"
            )

    def is_trained(path):
        if path.endswith("lora_scale"):
            return False
        if training.lora_rank and not lora.is_trained(path.split("/")) and path.split("/")[0] not in training.fresh:
            return False
        return not any(re.fullmatch(pattern, path) for pattern in training.frozen)

    trained = {path: value for path, value in flat.items() if is_trained(path)}
    if not trained:
        raise InputError("training.frozen leaves no parameter to train; name fewer")
    return unflatten(trained), {path: value for path, value in flat.items() if path not in trained}
