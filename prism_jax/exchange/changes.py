"""Rows that are sent as their change since the block before."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.base import Context
from prism_jax.exchange.baselines import AllGather
from prism_jax.exchange.memory import memory_of
from prism_jax.exchange.wrapped import Wrapped, wire_of
from prism_jax.parallel.partition import Layout


class Known(NamedTuple):
    """Rows as the receivers know them after a block.

    Attributes:
      own_BTD: those of this part.
      others_BKD: those of the other parts, K of them.
    """

    own_BTD: jax.Array
    others_BKD: jax.Array


@dataclass(frozen=True)
class Changes(Wrapped):
    """Lets `all_gather` send the difference between a row and what the other parts know of it.

    In the residual stream, a row changes little from block to block. So its change keeps more in few bits than the row
    does, and what was rounded away is sent again with the next change (differential pulse-code modulation, US patent
    2605361). The first block sends whole rows. Rows of float32 arrive as they are, but for the rounding of sums.
    """

    remembers = True

    def __post_init__(self) -> None:
        if not isinstance(self.of, AllGather):
            raise InputError(f"{self.of} does not send every row as it is; choose changes:all_gather:int2")

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        known: Known | None = jax.lax.stop_gradient(memory_of(self, layout))
        change_BTD = x_BTD if known is None else x_BTD - known.own_BTD
        context = self.of(change_BTD, layout)
        _, others_BKD = jnp.split(context.x_BKD, [x_BTD.shape[1]], axis=1)
        wire = wire_of(self.of)
        own_BTD = wire.decode(wire.encode(jax.lax.stop_gradient(change_BTD)), x_BTD.shape[-1])
        if known is not None:
            own_BTD, others_BKD = known.own_BTD + own_BTD, known.others_BKD + others_BKD
        rows = jnp.concatenate([x_BTD, others_BKD], axis=1)
        return replace(context, x_BKD=rows, memory=Known(own_BTD, others_BKD))
