"""Metrics of steps, read one step late."""

from dataclasses import dataclass, replace
from typing import Any

import jax


@dataclass(frozen=True)
class StartedStep:
    """One step that has been started.

    Attributes:
      number: number of steps taken with this one.
      position: position of the data before its batch.
      metrics: `loss`, `gradient_norm` and `finite`: arrays on the devices, or numbers after they have been read.
    """

    number: int
    position: dict[str, Any]
    metrics: dict[str, Any]


class LateMetrics:
    """Delays reading metrics by one step. Reading the previous step's metrics leaves the devices busy with the newest
    step."""

    def __init__(self) -> None:
        self._newest: StartedStep | None = None

    def push(self, step: StartedStep) -> StartedStep | None:
        """Stores a step that has just been started. Returns the previous one, with its metrics read.

        Returns None for the first step, and for the one after `flush`.
        """
        finished = self.flush()
        self._newest = step
        return finished

    def flush(self) -> StartedStep | None:
        """Waits for the newest step and returns it, with its metrics read. Returns None if there is none."""
        newest, self._newest = self._newest, None
        return newest and replace(newest, metrics=jax.device_get(newest.metrics))
