"""Metrics are read one step late, and each step's are its own."""

import jax.numpy as jnp

from train.late_metrics import LateMetrics, StartedStep


def step(number: int) -> StartedStep:
    return StartedStep(number, {"next_index": number - 1}, {"loss": jnp.float32(number / 2)})


def read(finished: StartedStep | None) -> tuple[int, int, float] | None:
    return finished and (finished.number, finished.position["next_index"], float(finished.metrics["loss"]))


def test_a_push_returns_the_step_before_and_a_flush_the_newest_one():
    late = LateMetrics()
    assert late.flush() is None
    assert late.push(step(1)) is None
    assert read(late.push(step(2))) == (1, 0, 0.5)
    assert read(late.flush()) == (2, 1, 1.0)
    assert late.flush() is None
    assert late.push(step(3)) is None
    assert read(late.push(step(4))) == (3, 2, 1.5)
