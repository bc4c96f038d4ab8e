"""The optimiser."""

import jax
import optax

from prism_jax.experiments.recipe import Training

EMBEDDINGS = ("embedding", "class_token")
"""Names of tables, which weight decay leaves alone as it does biases and norms."""


def optimizer(training: Training, num_updates: int) -> optax.GradientTransformation:
    """AdamW behind clipping, warm-up and decay, as a recipe says; with accumulation, averages of several gradients.

    Args:
      training: the recipe.
      num_updates: of the parameters in all, each after `training.accumulate` batches.
    """
    clip = optax.identity() if training.clip is None else optax.clip_by_global_norm(training.clip)
    adamw = optax.adamw(schedule(training, num_updates), weight_decay=training.weight_decay, mask=decayed)
    chain = optax.chain(clip, adamw)
    if training.accumulate == 1:
        return chain
    return optax.MultiSteps(chain, training.accumulate).gradient_transformation()


def schedule(training: Training, num_updates: int) -> optax.Schedule:
    """The learning rate of each update of the parameters."""
    warmup_steps, highest = round(training.warmup * num_updates), training.learning_rate
    rest = max(num_updates - warmup_steps, 1)
    falls = {
        "cosine": optax.cosine_decay_schedule(highest, rest),
        "linear": optax.linear_schedule(highest, 0.0, rest),
        "constant": optax.constant_schedule(highest),
    }
    # The first step of a warm-up is one step above 0, so that none is lost.
    rises = optax.linear_schedule(highest / max(warmup_steps, 1), highest, max(warmup_steps - 1, 1))
    return optax.join_schedules([rises, falls[training.schedule]], [warmup_steps])


def decayed(params):
    """Which parameters weight decay is for: matrices that are no tables."""
    return jax.tree.map_with_path(lambda path, x: x.ndim > 1 and path[-1].key not in EMBEDDINGS, params)
