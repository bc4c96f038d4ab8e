"""Keys and values in place of rows."""

from dataclasses import dataclass

import jax

from prism_jax.errors import InputError
from prism_jax.exchange.base import Context
from prism_jax.exchange.principal import Principal
from prism_jax.exchange.wrapped import Wrapped, has_own_wire, inner, sender
from prism_jax.parallel.partition import Layout


@dataclass(frozen=True)
class KeysValues(Wrapped):
    """Shares keys and values by way of another exchange, which is called on them in place of rows.

    A part computes keys and values of its own rows only. Voltage and PRISM also compute them for the rows that
    they receive. Each row sent has 2 G F numbers: its key, then its value. Serving engines call the all-gather of keys
    and values KV-gather.
    """

    keys_values = True

    def __post_init__(self) -> None:
        if sender(self.of) is None:
            raise InputError(f"{self.of} sends nothing, so it shares no keys and values; choose one that sends rows")
        if self.of.keys_values:
            raise InputError(f"{self.of} shares keys and values already; leave one keys_values out")
        if self.of.remembers:
            raise InputError(
                f"keys and values are those of one block, but {self.of} keeps rows for another; choose another"
            )
        if self.of.after_norm:
            raise InputError(f"keys and values come behind the norm, so {self.of} can't normalise them; choose another")
        if has_own_wire(self.of) or inner(self.of, Principal):
            raise InputError(
                f"keys_values:{self.of} has codebooks or a basis behind keys_values; put them in front, as in "
                "codebooks:48:8:principal:192:keys_values:all_gather"
            )

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        return self.of(x_BTD, layout)
