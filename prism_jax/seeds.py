"""Seeds of random numbers."""

from typing import Annotated

import msgspec
import numpy as np

from prism_jax.errors import InputError

LARGEST = 2**32 - 1
"""The largest seed. JAX cuts larger numbers to 32 bits, so different seeds would give the same random numbers."""

RANGE = f"a whole number from 0 to {LARGEST}"
Seed = Annotated[int, msgspec.Meta(ge=0, le=LARGEST, description=RANGE)]
"""Type of a seed that JAX, NumPy and Grain all accept unchanged."""


def check_seed(seed: int) -> None:
    """Raises InputError unless a seed is in the range of `Seed`."""
    try:
        msgspec.convert(int(seed) if isinstance(seed, np.integer) else seed, Seed)
    except msgspec.ValidationError as error:
        raise InputError(f"seed is {seed}; choose {RANGE}") from error
