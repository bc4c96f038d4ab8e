"""Metrics of steps, read one step late."""

from dataclasses import dataclass, replace
from typing import Any

import jax


@dataclass(frozen=True)
class Step:
    """A step that has been started.

    Attributes:
      number: number of steps taken with this one.
      position: position of the data before its batch.
      metrics: its `loss`, `gradient_norm` and `finite`: arrays on the devices, or numbers once they have been read.
    """

    number: int
    position: dict[str, Any]
    metrics: dict[str, Any]


class LateMetrics:
    """Holds the newest step back. Reading the metrics of the one before it leaves the devices at work."""

    def __init__(self) -> None:
        self._newest: Step | None = None

    def push(self, step: Step) -> Step | None:
        """Takes a step that has just been started, and returns the one before it, with its metrics read.

        Returns None for the first step, and for the one after `flush`.
        """
        finished = self.flush()
        self._newest = step
        return finished

    def flush(self) -> Step | None:
        """Waits for the newest step and returns it, with its metrics read. Returns None if there is none."""
        newest, self._newest = self._newest, None
        return newest and replace(newest, metrics=jax.device_get(newest.metrics))
