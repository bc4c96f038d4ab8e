"""The baselines: one device, isolated parts, and Voltage."""

from dataclasses import dataclass

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange, own_rows


@dataclass(frozen=True)
class WholeSequence(Exchange):
    """No parts: the whole sequence on one device. The reference."""

    def __call__(self, x_BTD, layout):
        self.check(layout.num_tokens, layout.num_parts)
        return own_rows(x_BTD, layout)

    def rows_sent(self, part_len):
        return 0

    def check(self, num_tokens, num_parts):
        if num_parts != 1:
            raise InputError(
                f"the whole sequence lies on 1 device, but num_parts is {num_parts}; choose another exchange or 1"
            )


@dataclass(frozen=True)
class IsolatedParts(Exchange):
    """Nothing is sent: a part attends to itself only. The lower bound; a task where it does no harm tests no exchange."""

    def __call__(self, x_BTD, layout):
        return own_rows(x_BTD, layout)

    def rows_sent(self, part_len):
        return 0


@dataclass(frozen=True)
class AllGather(Exchange):
    """Every row is sent: exact. Voltage (Hu & Li, ICDCS 2024)."""

    def __call__(self, x_BTD, layout):
        return self.share(x_BTD, x_BTD, layout.real_BPT, layout.positions_PT, layout)

    def rows_sent(self, part_len):
        return part_len
