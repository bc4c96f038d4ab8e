"""What a model is trained for and scored by: a data set as arrays, its loss, and its predictions."""

import abc
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from prism_jax.exchange.base import Exchanges
from prism_jax.parallel.partition import Parts
from prism_jax.parallel.runner import Runner


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
    def losses(
        self, model: nn.Module, params: Any, parts: Parts, targets: jax.Array, exchange: Exchanges, run: Runner
    ) -> tuple[jax.Array, jax.Array]:
        """The loss of each row, summed over what is predicted in it, and how much that is: two arrays [B]."""

    @abc.abstractmethod
    def outcomes(
        self, model: nn.Module, params: Any, parts: Parts, targets: jax.Array, exchange: Exchanges, run: Runner
    ) -> jax.Array:
        """What scoring keeps of each row: [B], or [B, N - 1]."""

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
