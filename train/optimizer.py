"""The optimiser."""

import jax
import optax


def adamw(learning_rate: float, weight_decay: float, num_steps: int) -> optax.GradientTransformation:
    """AdamW with warm-up over a tenth of the steps, then cosine decay to 0. Biases and norms are not decayed."""
    warmup_steps = num_steps // 10
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, max(warmup_steps, 1), max(num_steps, warmup_steps + 2)
    )
    return optax.adamw(
        schedule, weight_decay=weight_decay, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
    )
