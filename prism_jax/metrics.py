"""Scores with their uncertainty."""

import math

import numpy as np
from scipy import stats

Z95 = stats.norm.ppf(0.975)


def accuracy(correct: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Accuracy in percent and its 95 % interval (Wilson 1927).

    Args:
      correct: bool [examples].
    """
    hits, examples = int(correct.sum()), len(correct)
    interval = stats.binomtest(hits, examples).proportion_ci(0.95, method="wilson")
    return 100 * hits / examples, (100 * interval.low, 100 * interval.high)


def paired_difference(correct: np.ndarray, reference: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Accuracy minus the reference's on the same examples, in points, and its 95 % interval.

    The interval is the adjusted Wald interval for matched pairs (Agresti and Min 2005: half an example added to each cell of
    the 2 x 2 table), which does not shrink to nothing where two models agree on every example of a subset.
    """
    examples = len(correct)
    won, lost = int((correct & ~reference).sum()), int((~correct & reference).sum())
    n, b, c = examples + 2, won + 0.5, lost + 0.5
    middle, spread = (b - c) / n, Z95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return 100 * (won - lost) / examples, (100 * (middle - spread), 100 * (middle + spread))
