"""Times of steps, the share of them that is spent waiting for data, and the progress of a run."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
from tqdm import tqdm

from prism_jax.parallel.processes import is_terminal

T = TypeVar("T")

LINE_SECONDS = 30.0
"""Seconds between two lines of progress if the output is not a terminal."""


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


class Progress:
    """Shows steps, loss, rate and time left: a bar on a terminal, or occasional lines in a file.

    Args:
      first: number of steps taken before this command.
      total: number of steps at the end of the run.
      now: returns the time in seconds.
      line_seconds: minimum number of seconds between two lines.
    """

    def __init__(
        self,
        first: int,
        total: int,
        *,
        now: Callable[[], float] = time.perf_counter,
        line_seconds: float = LINE_SECONDS,
    ) -> None:
        self._bar = tqdm(total=total, initial=first, desc="training", unit="step", disable=None)
        self._first, self._total, self._now, self._line_seconds = first, total, now, line_seconds
        self._started = self._last_line = now()

    def at(self, step: int, loss: float) -> None:
        """Shows the loss of a step that has ended."""
        postfix, now = f"loss={loss:.4g}", self._now()
        self._bar.set_postfix_str(postfix, refresh=False)
        self._bar.update(step - self._bar.n)
        if self._bar.disable and is_terminal() and now - self._last_line >= self._line_seconds:
            self._last_line = now
            meter = tqdm.format_meter(
                step,
                self._total,
                now - self._started,
                initial=self._first,
                prefix="training",
                unit="step",
                postfix=postfix,
                bar_format="{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
            )
            print(meter, file=sys.stderr, flush=True)

    def close(self) -> None:
        self._bar.close()
