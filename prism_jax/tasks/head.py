"""The head of a model, as a task reads it."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax

from prism_jax.forward import head
from prism_jax.parallel.partition import Parts
from prism_jax.parallel.runner import Runner


@dataclass(frozen=True)
class Head:
    """The head of a model, on the rows that the parts returned.

    Attributes:
      model: a Linen module.
      params: its parameters.
      run: the runner that joined the rows.
    """

    model: nn.Module
    params: Any
    run: Runner

    def __call__(self, rows_BRD: jax.Array, parts: Parts) -> jax.Array:
        """Returns the answer for a whole batch, as `forward` does."""
        return head(self.model, self.params, rows_BRD, parts)
