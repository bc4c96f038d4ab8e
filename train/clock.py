"""How long steps take, how much of that they wait for data, and how far the run is."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
from tqdm import tqdm

from prism_jax.parallel.processes import is_terminal

T = TypeVar("T")

SAY_EVERY = 30.0
"""Seconds between two lines of progress where no screen shows a bar."""


class Clock:
    """Times steps that run in the background while the next batch is made.

    Attributes:
      waited: seconds of the steps that were counted in which none was running because the next batch was not there yet.
      stepping: seconds of the steps that were counted.
      steps: their number.
    """

    def __init__(self) -> None:
        self.waited, self.stepping, self.steps = 0.0, 0.0, 0
        self._waiting = 0.0
        self._watch = ThreadPoolExecutor(1)
        self._ready: Future[float] | None = None

    def next_of(self, batches: Iterator[T]) -> T:
        """The next batch. What it takes after the step before has ended is waiting."""
        began = time.perf_counter()
        batch, self._waiting = next(batches), 0.0
        if self._ready is not None and self._ready.done():
            self._waiting = max(time.perf_counter() - max(began, self._ready.result()), 0.0)
        return batch

    def started(self, result: Any) -> None:
        """A step is under way, of which `result` will be an array."""
        self._ready = self._watch.submit(_when_ready, result)

    def count(self, seconds: float) -> None:
        """A step that took so long, until it was under way and the one before had ended."""
        self.waited, self.stepping, self.steps = self.waited + self._waiting, self.stepping + seconds, self.steps + 1


def _when_ready(result: jax.Array) -> float:
    jax.block_until_ready(result)
    return time.perf_counter()


class Progress:
    """Steps, loss, rate and time left: as a bar on a screen, as a line now and then in a file."""

    def __init__(self, first: int, total: int) -> None:
        self._bar = tqdm(total=total, initial=first, desc="training", unit="step", disable=None)
        self._first, self._total, self._started = first, total, time.perf_counter()
        self._said = self._started

    def at(self, step: int, loss: float) -> None:
        """The loss of a step that has ended."""
        postfix, now = f"loss={loss:.4g}", time.perf_counter()
        self._bar.set_postfix_str(postfix, refresh=False)
        self._bar.update(step - self._bar.n)
        if self._bar.disable and is_terminal() and now - self._said >= SAY_EVERY:
            self._said = now
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
