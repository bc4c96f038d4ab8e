"""Seeds of random numbers."""

import numpy as np

from prism_jax.errors import InputError

LARGEST = 2**32 - 1
"""JAX cuts larger ones to 32 bits, so that two of them would give the same numbers."""


def check_seed(seed: int, name: str = "seed") -> None:
    """Raises InputError unless a seed is a whole number that JAX, NumPy and Grain all take as it is."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= LARGEST:
        raise InputError(f"{name} is {seed}; choose a whole number from 0 to {LARGEST}")
