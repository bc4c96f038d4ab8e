"""Comparison of two arrays."""

import numpy as np


def assert_close(ours, expected, tolerance: float = 1e-5) -> None:
    """max|a - b| <= tolerance max(1, max|b|)."""
    ours, expected = np.asarray(ours), np.asarray(expected)
    assert ours.shape == expected.shape, f"shapes {ours.shape} and {expected.shape}"
    bound, error = tolerance * max(1.0, np.abs(expected).max(initial=0.0)), np.abs(ours - expected).max(initial=0.0)
    assert error <= bound, f"max|a - b| = {error:.3g}, allowed {bound:.3g}"
