"""A task: a data set as arrays, its loss, and its predictions. A task reads a model's head and never runs the model."""

import abc
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from prism_jax.forward import head
from prism_jax.parallel.partition import Parts
from prism_jax.parallel.runner import Runner


@dataclass(frozen=True)
class Head:
    """The head of a model, on the rows that the parts returned.

    Attributes:
      model: a Linen module.
      params: its parameters.
      run: the runner that joined the rows.
    """

    model: nn.Module
    params: Any
    run: Runner

    def __call__(self, rows_BRD: jax.Array, parts: Parts) -> jax.Array:
        """Returns the answer for a whole batch, as `forward` does."""
        return head(self.model, self.params, rows_BRD, parts)


class Task(abc.ABC):
    """A data set, ready for a model. Subclasses are final, frozen dataclasses.

    Rows are what a model sees: one an example, or several (the endings of a cloze).
    """

    @property
    @abc.abstractmethod
    def lengths(self) -> np.ndarray:
        """Real tokens of each row."""

    @property
    @abc.abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Keys of `metrics.METRICS`; the first is the score."""

    @property
    @abc.abstractmethod
    def labels(self) -> np.ndarray | None:
        """What the predictions are compared with, one an example."""

    @property
    def training_rows(self) -> np.ndarray:
        """The rows to train on: all of them."""
        return np.arange(len(self.lengths))

    @abc.abstractmethod
    def arrays(
        self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Rows as a batch for the model, and their targets.

        Args:
          index: of the rows.
          num_tokens: to which they are padded.
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
        """A prediction for each example, from the outcomes of all rows.

        Raises:
          RunError: if the model's numbers are not finite, so that no example's answer is known.
        """
        return outcomes

    @abc.abstractmethod
    def bare(self) -> "Task":
        """The same without its rows: enough for `losses`, `outcomes` and `predictions`."""


@dataclass(frozen=True)
class Outline(Task):
    """What the processes beside the terminal know of a task. Its rows are zeros, of the shapes of the terminal's.

    Attributes:
      task: bare.
      known: its lengths, metrics, labels and training_rows, by name.
      shapes: by the number of tokens of a batch, its arrays for no rows at all.
    """

    task: Task
    known: dict[str, Any]
    shapes: dict[int, tuple[dict[str, np.ndarray], np.ndarray]]

    @property
    def lengths(self):
        return self.known["lengths"]

    @property
    def metrics(self):
        return self.known["metrics"]

    @property
    def labels(self):
        return self.known["labels"]

    @property
    def training_rows(self):
        return self.known["training_rows"]

    def arrays(self, index, num_tokens, rng):
        return jax.tree.map(lambda x: np.zeros((len(index), *x.shape[1:]), x.dtype), self.shapes[num_tokens])

    def losses(self, *args):
        return self.task.losses(*args)

    def outcomes(self, *args):
        return self.task.outcomes(*args)

    def predictions(self, outcomes):
        return self.task.predictions(outcomes)

    def bare(self):
        return self.task


def outline(task: Task, num_tokens: int) -> Outline:
    """The outline of a task whose rows are cut at `num_tokens`."""
    shortest = np.argmin(task.lengths)

    def empty(length):
        return jax.tree.map(lambda x: x[:0], task.arrays(np.array([shortest]), length, None))

    shapes = {length: empty(length) for length in range(int(task.lengths[shortest]), num_tokens + 1)}
    known = {name: getattr(task, name) for name in ("lengths", "metrics", "labels", "training_rows")}
    return Outline(task.bare(), known, shapes)
