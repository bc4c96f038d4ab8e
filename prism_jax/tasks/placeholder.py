"""Replacement for the inputs of a task on processes other than 0."""

from dataclasses import dataclass

import numpy as np

from prism_jax.tasks.inputs import Inputs


@dataclass(frozen=True)
class Placeholder:
    """`Inputs` of zeros, with the shapes of process 0's batches. Process 0 creates it and sends it to the others.

    Attributes:
      lengths: number of real tokens of each sequence.
      num_tokens: N of `empty`.
      empty: a batch with no sequences. Axis 1 of each array grows with N.
    """

    lengths: np.ndarray
    num_tokens: int
    empty: dict[str, np.ndarray]

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        longer = num_tokens - self.num_tokens
        return {
            name: np.zeros((len(index), x.shape[1] + longer, *x.shape[2:]), x.dtype) for name, x in self.empty.items()
        }


def placeholder(inputs: Inputs, num_tokens: int) -> Placeholder:
    """Returns the replacement for inputs that are cut at `num_tokens`. Reads one sequence."""
    batch = inputs.arrays(np.zeros(1, int), num_tokens, None)
    return Placeholder(inputs.lengths, num_tokens, {name: x[:0] for name, x in batch.items()})
