"""Tasks that predict a class or a number for each text or image."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prism_jax.errors import RunError
from prism_jax.forward import Head
from prism_jax.parallel.partition import Parts
from prism_jax.tasks.base import Arrays, Task

NO_CLASS = -1
"""Outcome of an example whose logits are not finite."""


@dataclass(frozen=True)
class Classification(Task):
    """Prediction of a class for each text or image.

    Attributes:
      smoothing: share of the label that the loss spreads over all classes, 0 or more and less than 1. 0, the default,
        for none.
    """

    smoothing: float = 0.0

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> Arrays:
        return self.inputs.arrays(index, num_tokens, rng), _targets(self, index, np.int32)

    def losses(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_BC = head(rows_BRD, parts)
        one_hot_BC = optax.smooth_labels(jax.nn.one_hot(targets, logits_BC.shape[1]), self.smoothing)
        loss_B = optax.softmax_cross_entropy(logits_BC, one_hot_BC)
        return loss_B, jnp.ones_like(loss_B)

    def divergence(
        self, head: Head, rows_BRD: jax.Array, teacher: Head, teacher_BRD: jax.Array, parts: Parts
    ) -> jax.Array:
        """Kullback-Leibler, in nats."""
        teacher_BC = jax.nn.log_softmax(_exact(teacher, teacher_BRD, parts))
        return optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(head(rows_BRD, parts)), teacher_BC)

    def outcomes(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> jax.Array:
        logits_BC = head(rows_BRD, parts)
        return jnp.where(jnp.isfinite(logits_BC).all(-1), logits_BC.argmax(-1), NO_CLASS)

    def predictions(self, outcomes: np.ndarray) -> np.ndarray:
        if (outcomes == NO_CLASS).any():
            raise RunError(
                f"the logits of {(outcomes == NO_CLASS).sum()} of {len(outcomes)} examples are not finite, "
                "so they have no class; use weights that did not diverge, or a wire format of a wider range"
            )
        return outcomes


@dataclass(frozen=True)
class Regression(Task):
    """Prediction of a number for each text or image."""

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> Arrays:
        return self.inputs.arrays(index, num_tokens, rng), _targets(self, index, np.float32)

    def losses(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss_B = (head(rows_BRD, parts)[:, 0] - targets) ** 2
        return loss_B, jnp.ones_like(loss_B)

    def divergence(
        self, head: Head, rows_BRD: jax.Array, teacher: Head, teacher_BRD: jax.Array, parts: Parts
    ) -> jax.Array:
        """Squared difference."""
        return (head(rows_BRD, parts)[:, 0] - _exact(teacher, teacher_BRD, parts)[:, 0]) ** 2

    def outcomes(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> jax.Array:
        return head(rows_BRD, parts)[:, 0]


def _exact(teacher: Head, rows_BRD: jax.Array, parts: Parts) -> jax.Array:
    """Returns the answers of a teacher, without dropout and without a gradient."""
    return jax.lax.stop_gradient(teacher(rows_BRD, replace(parts, keys_B=None)))


def _targets(task: Task, index: np.ndarray, dtype: type[np.number]) -> np.ndarray:
    labels = np.zeros(len(task.lengths), int) if task.labels is None else task.labels
    return labels[index].astype(dtype)
