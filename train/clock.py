"""Times of steps, and the share of them that is spent waiting for data."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax

T = TypeVar("T")


class Clock:
    """Times steps that run in the background while the next batch is made.

    Args:
      now: returns the time in seconds.
      watch: runs the function that waits for a step to end; None for a thread.

    Attributes:
      waited: seconds of the counted steps without a running step, because the next batch was not ready.
      stepping: seconds of the counted steps.
      steps: number of counted steps.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter, watch: Executor | None = None) -> None:
        self.now, self.waited, self.stepping, self.steps = now, 0.0, 0.0, 0
        self._waiting = 0.0
        self._watch = watch or ThreadPoolExecutor(1)
        self._ended: Future[float] | None = None

    def next_of(self, batches: Iterator[T]) -> T:
        """Returns the next batch. Loading time after the end of the running step counts as waiting."""
        began = self.now()
        batch, self._waiting = next(batches), 0.0
        if self._ended is not None and self._ended.done():
            self._waiting = max(self.now() - max(began, self._ended.result()), 0.0)
        return batch

    def started(self, result: Any) -> None:
        """Records that a step has been started. The step ends when the array `result` is ready."""
        self._ended = self._watch.submit(self._when_ready, result)

    def count(self, seconds: float) -> None:
        """Counts a step.

        Args:
          seconds: time from the request for its batch until the step was started and the previous step had ended.
        """
        self.waited, self.stepping, self.steps = self.waited + self._waiting, self.stepping + seconds, self.steps + 1

    def _when_ready(self, result: Any) -> float:
        jax.block_until_ready(result)
        return self.now()
