"""The baselines: one device, isolated parts, and Voltage."""

from dataclasses import dataclass

import jax

from prism_jax.errors import InputError
from prism_jax.exchange.base import Context, Exchange, Sending, own_rows
from prism_jax.parallel.partition import Layout


@dataclass(frozen=True)
class WholeSequence(Exchange):
    """The reference: the whole sequence on one device, without parts."""

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        self.check(layout.num_tokens, layout.num_parts)
        return own_rows(x_BTD, layout)

    def check(self, num_tokens: int, num_parts: int) -> None:
        if num_parts != 1:
            raise InputError(
                f"the whole sequence lies on 1 device, but num_parts is {num_parts}; choose another exchange or 1"
            )


@dataclass(frozen=True)
class IsolatedParts(Exchange):
    """The lower bound: nothing is sent, and a part attends to itself only.

    A task that loses nothing by it does not test an exchange.
    """

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        return own_rows(x_BTD, layout)


@dataclass(frozen=True)
class AllGather(Sending):
    """Voltage (Hu & Li, ICDCS 2024): every row is sent, so the answer is exact."""

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        return self.share(x_BTD, x_BTD, layout.real_BPT, layout.positions_PT, layout)

    def rows_sent(self, part_len: int) -> int:
        return part_len
