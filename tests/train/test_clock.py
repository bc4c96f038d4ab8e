"""Time waited for data. Every time is the test's own, so the machine's load changes none."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest

from train.clock import Clock


class Time:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Background(Executor):
    """Runs what was submitted last when the test says so, in place of a thread."""

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        self._future: Future = Future()
        self._call = (function, args, kwargs)
        return self._future

    def run(self) -> None:
        function, args, kwargs = self._call
        self._future.set_result(function(*args, **kwargs))


@pytest.mark.parametrize(
    ("step_ends", "batch_is_there", "waited"),
    [(0.4, 0.9, 0.5), (None, 0.1, 0.0), (0.4, 0.4, 0.0)],
    ids=["step first", "batch first", "together"],
)
def test_a_batch_is_waited_for_from_the_end_of_the_step_before_it(step_ends, batch_is_there, waited):
    """The loader and the step begin together, at 10 s."""
    now, background = Time(), Background()
    clock = Clock(now, background)

    def batches() -> Iterator[None]:
        now.seconds = 10.0
        yield None
        if step_ends is not None:
            now.seconds = 10.0 + step_ends
            background.run()
        now.seconds = 10.0 + batch_is_there
        yield None

    loader = batches()
    clock.next_of(loader)
    clock.started(np.float32(0))
    clock.next_of(loader)
    clock.count(1.0)
    assert (clock.stepping, clock.steps) == (1.0, 1)
    assert clock.waited == pytest.approx(waited)


def test_a_step_that_ended_before_its_successor_was_asked_for_is_waited_for_from_then_on():
    """A batch of 0.3 s, asked for 2 s after the step has ended."""
    now, background = Time(), Background()
    clock = Clock(now, background)
    clock.started(np.float32(0))
    now.seconds = 1.0
    background.run()
    now.seconds = 3.0

    def slow() -> Iterator[None]:
        now.seconds = 3.3
        yield None

    clock.next_of(slow())
    clock.count(0.3)
    assert clock.waited == pytest.approx(0.3)
