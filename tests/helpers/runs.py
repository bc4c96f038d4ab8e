"""Runs of the toy config: flags, and what they have written."""

import json
from pathlib import Path

import jax
import numpy as np

from prism_jax.experiments import checkpoint

FULL = ["--training.frozen", "--training.learning-rate", "0.003", "--training.batch-size", "16"]
"""All parameters are trained: 54 examples, 4 steps an epoch, 16 steps."""
PRISM = ["--training.exchanges", "segment_means:1", "segment_means:3", "--training.parts", "3"]
WHOLE = [*FULL, *PRISM, "--training.log-every", "1", "--training.evaluate-every", "3"]
"""Of the fixture `whole`."""


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_times(out: Path) -> list[dict]:
    return [{name: x for name, x in line.items() if name not in ("seconds", "time", "waited")} for line in lines(out)]


def assert_same_parameters(one: Path, other: Path) -> None:
    """To the last bit, at the last step of both."""
    a, b = (checkpoint.load(out, 16) for out in (one, other))
    assert jax.tree.structure(a.params) == jax.tree.structure(b.params)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
