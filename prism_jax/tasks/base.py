"""A task: a data set as arrays, its loss, and its predictions. A task reads a model's head and never runs the model."""

import abc
from dataclasses import dataclass

import jax
import numpy as np

from prism_jax.forward import Head
from prism_jax.parallel.partition import Parts
from prism_jax.tasks.inputs import Inputs

Arrays = tuple[dict[str, np.ndarray], np.ndarray]
"""The arrays of a batch [B, N, ...] for `Runner.split`, and its targets [B, ...]."""


@dataclass(frozen=True)
class Task(abc.ABC):
    """A data set, ready for a model.

    A model reads rows: one for each example, or several (the endings of a cloze).

    Attributes:
      inputs: the rows. On processes other than 0, a `Placeholder`.
      labels: the truth that predictions are compared with, one for each example; None where it is unknown.
      metrics: keys of `metrics.METRICS`; the first is the score.
    """

    inputs: Inputs
    labels: np.ndarray | None
    metrics: tuple[str, ...]

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each row."""
        return self.inputs.lengths

    @property
    def training_rows(self) -> np.ndarray:
        """The rows to train on: all of them."""
        return np.arange(len(self.lengths))

    @abc.abstractmethod
    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> Arrays:
        """Returns rows as a batch for the model, with their targets.

        Args:
          index: of the rows, int [B].
          num_tokens: N, to which they are padded.
          rng: for augmentation; None for none.
        """

    @abc.abstractmethod
    def losses(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes the loss of each row of a batch.

        Args:
          head: reads the answers.
          rows_BRD: what `forward.encode` returned.
          parts: the batch.
          targets: from `arrays`.

        Returns:
          The losses [B], each summed over the predictions in its row, and the number of these predictions [B].
        """

    @abc.abstractmethod
    def outcomes(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> jax.Array:
        """Computes the values that scoring keeps of each row: [B], or [B, N - 1]. Arguments as for `losses`."""

    def predictions(self, outcomes: np.ndarray) -> np.ndarray:
        """Returns a prediction for each example, from the outcomes of all rows.

        Raises:
          RunError: if the model's numbers are not finite, so that no example's answer is known.
        """
        return outcomes
