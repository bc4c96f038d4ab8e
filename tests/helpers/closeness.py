"""Comparison of two arrays."""

import numpy as np


def assert_close(ours, theirs, tolerance: float = 1e-5) -> None:
    """max|a - b| <= tolerance max(1, max|b|)."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"shapes {ours.shape} and {theirs.shape}"
    bound, error = tolerance * max(1.0, np.abs(theirs).max(initial=0.0)), np.abs(ours - theirs).max(initial=0.0)
    assert error <= bound, f"max|a - b| = {error:.3g}, allowed {bound:.3g}"
