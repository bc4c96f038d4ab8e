"""Intervals against their definitions and against simulation."""

import numpy as np
import pytest

from prism_jax import metrics


def test_accuracy_with_wilson_interval():
    correct = np.arange(100) < 81
    value, (low, high) = metrics.accuracy(correct)
    assert value == 81
    # Wilson: the p for which |81/100 - p| = z sqrt(p (1 - p) / 100).
    for p in (low / 100, high / 100):
        assert abs(0.81 - p) == pytest.approx(metrics.Z95 * np.sqrt(p * (1 - p) / 100), rel=1e-6)


def test_accuracy_of_a_perfect_subset_is_not_certain():
    assert metrics.accuracy(np.ones(50, bool))[1] == pytest.approx((92.86, 100), abs=0.01)


def test_paired_difference():
    reference, correct = np.zeros(200, bool), np.zeros(200, bool)
    reference[:100], correct[10:105] = True, True  # 10 lost, 5 won
    value, (low, high) = metrics.paired_difference(correct, reference)
    assert value == pytest.approx(-2.5)
    assert low < -2.5 < high
    agreeing, interval = metrics.paired_difference(reference, reference)
    assert agreeing == 0
    assert interval == pytest.approx((-0.97, 0.97), abs=0.01)


def test_the_paired_interval_covers_the_truth_95_times_in_100():
    rng, hits, runs = np.random.default_rng(0), 0, 2000
    for _ in range(runs):
        reference = rng.random(250) < 0.8
        correct = np.where(rng.random(250) < 0.1, rng.random(250) < 0.5, reference)
        _, (low, high) = metrics.paired_difference(correct, reference)
        hits += low <= 100 * (0.05 - 0.1 * 0.8) <= high
    assert hits / runs == pytest.approx(0.95, abs=0.015)
