"""The optimizer."""

from typing import Any

import jax
import optax

from prism_jax.exchange.arrays import EXCHANGE
from prism_jax.experiments.recipe import Training


def optimizer(training: Training, num_updates: int) -> optax.GradientTransformation:
    """Returns AdamW with a recipe's clipping, warm-up, decay and accumulation of gradients.

    Args:
      training: the recipe.
      num_updates: number of parameter updates in the whole run, each after `training.accumulate` batches.
    """
    clip = optax.identity() if training.clip is None else optax.clip_by_global_norm(training.clip)
    adamw = optax.adamw(schedule(training, num_updates), weight_decay=training.weight_decay, mask=decayed)
    chain = optax.chain(clip, adamw)
    if training.accumulate == 1:
        return chain
    return optax.MultiSteps(chain, training.accumulate).gradient_transformation()


def schedule(training: Training, num_updates: int) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates made before."""
    warmup_steps, highest = round(training.warmup * num_updates), training.learning_rate
    rest = max(num_updates - warmup_steps, 1)
    falls = {
        "cosine": optax.cosine_decay_schedule(highest, rest),
        "linear": optax.linear_schedule(highest, 0.0, rest),
        "constant": optax.constant_schedule(highest),
    }
    # The first update of a warm-up has a rate above 0, so that it has an effect.
    rises = optax.linear_schedule(highest / max(warmup_steps, 1), highest, max(warmup_steps - 1, 1))
    return optax.join_schedules([rises, falls[training.schedule]], [warmup_steps])


def decayed(params: Any) -> Any:
    """Returns a tree of bools: whether weight decay applies to each parameter. It applies to all matrices except
    tables of embeddings and arrays of exchanges."""

    def is_decayed(path: tuple[Any, ...], x: jax.Array) -> bool:
        return x.ndim > 1 and path[-1].key != "embedding" and path[0].key != EXCHANGE

    return jax.tree.map_with_path(is_decayed, params)
