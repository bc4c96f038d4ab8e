"""Predictions for all sequences of a task, in one setting."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from prism_jax.data.text import bucket_of
from prism_jax.exchange.setting import Setting
from prism_jax.forward import Head, encode
from prism_jax.models.base import Model
from prism_jax.parallel.partition import Parts
from prism_jax.parallel.runner import PlacedRunner
from prism_jax.progress import Progress
from prism_jax.tasks.base import Task
from prism_jax.tasks.batches import Batch, scoring_batches


@dataclass
class Predictor:
    """Predicts in one setting. Compiles one program for each bucket, and runs it with any parameters.

    Attributes:
      model: a Linen module.
      task: the task.
      setting: the exchange and the number of parts.
      run: the runner of the parts.
      batch_size: B.
      buckets: lengths, from `text.bucket_lengths`.
      programs: the compiled programs so far, by bucket.
    """

    model: Model
    task: Task
    setting: Setting
    run: PlacedRunner
    batch_size: int
    buckets: tuple[int, ...]
    programs: dict[int, jax.stages.Compiled] = field(default_factory=dict, init=False)

    def __call__(self, params: Any, description: str | None = None) -> np.ndarray:
        """Returns the task's outcomes of all sequences, in their order. Called on the processes where `run` is `here`.

        Args:
          params: parameters, from `run.replicate`.
          description: text of the progress bar; the setting by default.
        """
        outcomes: np.ndarray | None = None
        batches = scoring_batches(self.task, self.buckets, self.batch_size)
        steps = num_batches(self.task, self.buckets, self.batch_size)
        for batch in Progress(batches, description or str(self.setting), steps, unit="batch"):
            parts, targets = self.run.split(batch.tokens), self.run.broadcast(batch.targets)
            outcome = self.run.fetch(self._program(batch, params, parts, targets)(params, parts, targets))
            if outcomes is None:
                rest = tuple(self.buckets[-1] - 1 for _ in outcome.shape[1:])
                outcomes = np.zeros((len(self.task.lengths), *rest), outcome.dtype)
            outcomes[(batch.index, *(slice(n) for n in outcome.shape[1:]))] = outcome[: len(batch.index)]
        assert outcomes is not None
        return outcomes

    def _program(self, batch: Batch, params: Any, parts: Parts, targets: Any) -> jax.stages.Compiled:
        if batch.num_tokens not in self.programs:

            def program(params: Any, parts: Parts, targets: jax.Array) -> jax.Array:
                rows_BRD = encode(self.model, params, parts, self.setting.exchange, self.run)
                return self.task.outcomes(Head(self.model, params, self.run), rows_BRD, parts, targets)

            self.programs[batch.num_tokens] = jax.jit(program).lower(params, parts, targets).compile()
        return self.programs[batch.num_tokens]


def num_batches(task: Task, buckets: tuple[int, ...], batch_size: int) -> int:
    """Returns the number of batches that hold all sequences of a task, see `scoring_batches`."""
    return sum(-(-count // batch_size) for count in count_by_bucket(task, buckets).values())


def count_by_bucket(task: Task, buckets: tuple[int, ...]) -> dict[int, int]:
    """Returns the number of a task's sequences that are padded to each length."""
    lengths, counts = np.unique(bucket_of(task.lengths, buckets), return_counts=True)
    return dict(zip(lengths.tolist(), counts.tolist(), strict=True))
