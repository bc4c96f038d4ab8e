"""Exchanges with a memory: a part reads rows that the others sent before an earlier block.

The memory goes from block to block as `Context.memory` and `Layout.memory`. A part's own rows are always current. Row
weights and positions are those of the block that reads. The rows that a block reads are projected by that block.
"""

import abc
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.base import Context, Exchange, name_of
from prism_jax.exchange.wrapped import Wrapped, inner, sender
from prism_jax.parallel.partition import Layout
from prism_jax.records import Count, check_value


class Kept(NamedTuple):
    """Memory of a `Remembering` exchange, handed on to the next block.

    Attributes:
      x_BKD: rows of the other parts, K of them.
      of: the memory of the exchange that it wraps.
    """

    x_BKD: jax.Array
    of: Any


def memory_of(exchange: Exchange, layout: Layout) -> Any:
    """Returns what an exchange kept in the block before; None in the first block.

    Raises:
      InputError: if it was lost.
    """
    if layout.memory is None and layout.block > 0:
        raise InputError(
            f"{exchange} lost the rows of the block before; an exchange around it must return a context with its memory"
        )
    return layout.memory


@dataclass(frozen=True)
class Remembering(Wrapped):
    """Lets a part read the rows that another exchange brought in an earlier block.

    In the context of the other exchange, the part's own rows come first, as those of `Sending.share` do. The compiler
    removes a collective whose rows no block reads.
    """

    remembers = True

    def __post_init__(self) -> None:
        if sender(self.of) is None:
            raise InputError(f"{self.of} sends nothing, so there are no rows to keep; choose one that sends rows")
        if self.of.keys_values or self.of.after_norm:
            raise InputError(
                f"{self.of} sends what its own block alone can read, behind a norm or a projection; "
                "choose one that sends rows as they are"
            )
        if inner(self.of, type(self)):
            raise InputError(f"{self.of} keeps rows already; leave one {name_of(type(self))} out")

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        before: Kept | None = memory_of(self, layout)
        context = self.of(x_BTD, replace(layout, memory=before and before.of))
        own_BTD, arrived_BKD = jnp.split(context.x_BKD, [x_BTD.shape[1]], axis=1)
        arrived = Kept(arrived_BKD, context.memory)
        read_BKD, kept = self.choose(arrived, arrived if before is None else before, layout.block)
        return replace(context, x_BKD=jnp.concatenate([own_BTD, read_BKD], axis=1), memory=kept)

    @abc.abstractmethod
    def choose(self, arrived: Kept, before: Kept, block: int) -> tuple[jax.Array, Kept]:
        """Returns the rows of others that a block reads, and the memory for the next block.

        Args:
          arrived: from the other exchange.
          before: handed on by the block before; `arrived` in the first block.
          block: index of the block.
        """


@dataclass(frozen=True)
class Displaced(Remembering):
    """Block i reads what the others sent before block i - 1. What is sent before block i may arrive while it computes.

    The first block reads what is sent before itself, and the last one sends nothing. After DistriFusion (arXiv
    2402.19481), whose patches read the activations of the previous diffusion step.
    """

    def choose(self, arrived: Kept, before: Kept, block: int) -> tuple[jax.Array, Kept]:
        return before.x_BKD, arrived

    def read_after(self, block: int, num_blocks: int) -> int | None:
        after = self.of.read_after(block, num_blocks)
        if after is None or block == 0:
            return after
        return after + 1 if block + after + 1 < num_blocks else None


@dataclass(frozen=True)
class Every(Remembering):
    """Blocks 0, H, 2 H, ... exchange rows. The silent blocks between read the rows that arrived last.

    Attributes:
      period: H.
    """

    period: Count

    def __post_init__(self) -> None:
        check_value("period", self.period, Count)
        super().__post_init__()

    def choose(self, arrived: Kept, before: Kept, block: int) -> tuple[jax.Array, Kept]:
        latest = before if block % self.period else arrived
        return latest.x_BKD, latest

    def read_after(self, block: int, num_blocks: int) -> int | None:
        if block % self.period:
            return None
        after = self.of.read_after(block // self.period, -(-num_blocks // self.period))
        return after and after * self.period
