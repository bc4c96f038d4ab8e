"""Task: a data set as arrays, its loss, and its predictions. A task uses a model's head, but never runs the model."""

import abc
from dataclasses import dataclass

import jax
import numpy as np

from prism_jax.forward import Head
from prism_jax.parallel.partition import Parts
from prism_jax.tasks.inputs import Inputs

Arrays = tuple[dict[str, np.ndarray], np.ndarray]
"""Arrays of a batch [B, N, ...] for `Runner.split`, and its targets [B, ...]."""


@dataclass(frozen=True)
class Task(abc.ABC):
    """A data set, ready for a model.

    A model reads sequences. An example gives one sequence, or several (one for each ending of a cloze).

    Attributes:
      inputs: the sequences. On processes other than 0, a `Placeholder`.
      labels: the right answer for each example; None where they are unknown.
      metrics: keys of `metrics.METRICS`; the first is the score.
    """

    inputs: Inputs
    labels: np.ndarray | None
    metrics: tuple[str, ...]

    @property
    def lengths(self) -> np.ndarray:
        """Number of real tokens of each sequence."""
        return self.inputs.lengths

    @property
    def training_index(self) -> np.ndarray:
        """Indices of the sequences to train on. By default all of them."""
        return np.arange(len(self.lengths))

    @abc.abstractmethod
    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> Arrays:
        """Returns sequences as a batch for the model, with their targets.

        Args:
          index: indices of the sequences, int [B].
          num_tokens: N, the padded length.
          rng: random numbers for augmentation; None for no augmentation.
        """

    @abc.abstractmethod
    def losses(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes the loss of each sequence of a batch.

        Args:
          head: computes the answers from rows.
          rows_BRD: returned by `forward.encode`.
          parts: the batch.
          targets: from `arrays`.

        Returns:
          The losses [B], each summed over the predictions of its sequence, and the number of these predictions [B].
        """

    @abc.abstractmethod
    def divergence(
        self, head: Head, rows_BRD: jax.Array, teacher: Head, teacher_BRD: jax.Array, parts: Parts
    ) -> jax.Array:
        """Computes how far the answers to each sequence are from those of a teacher.

        Args:
          head: computes the answers from rows.
          rows_BRD: returned by `forward.encode`.
          teacher: the head of the teacher. Without dropout.
          teacher_BRD: its rows.
          parts: the batch.

        Returns:
          Divergences [B], each summed over the predictions of its sequence, as in `losses`.
        """

    @abc.abstractmethod
    def outcomes(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> jax.Array:
        """Computes the values that scoring needs for each sequence: [B], or [B, N - 1]. Arguments as for `losses`."""

    def predictions(self, outcomes: np.ndarray) -> np.ndarray:
        """Returns a prediction for each example, given the outcomes of all sequences.

        Raises:
          RunError: if the model's outputs are not finite, so there is no answer.
        """
        return outcomes
