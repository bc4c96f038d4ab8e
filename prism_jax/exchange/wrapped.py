"""Exchanges that wrap another one, and the wire format of an exchange, wrapped or not."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange, Sending
from prism_jax.exchange.wire import FLOAT32, Wire


@dataclass(frozen=True)
class Wrapped(Exchange):
    """An exchange that changes the context of another one. It sends the rows of the other one, if any.

    Attributes:
      of: the other exchange.
    """

    of: Exchange

    @property
    def after_norm(self) -> bool:
        return self.of.after_norm

    @property
    def own_wire(self) -> Wire | None:
        """Wire format in place of that of the other exchange, if any."""
        return None

    @property
    def arrays_name(self) -> str:
        return self.of.arrays_name

    def arrays(self, features: int) -> dict[str, jax.ShapeDtypeStruct]:
        return self.of.arrays(features)

    def with_arrays(self, arrays: Mapping[str, jax.Array]) -> Exchange:
        return replace(self, of=self.of.with_arrays(arrays))

    def rows_sent(self, part_len: int) -> int:
        return self.of.rows_sent(part_len)

    def check(self, num_tokens: int, num_parts: int) -> None:
        self.of.check(num_tokens, num_parts)

    @classmethod
    def parameters(cls) -> dict[str, type]:
        return {name: kind for name, kind in super().parameters().items() if name != "of"}

    def __str__(self) -> str:
        return f"{super().__str__()}:{self.of}"


def sender(exchange: Exchange) -> Sending | None:
    """Returns the exchange that sends: itself, or the one that it wraps. None if nothing is sent."""
    while isinstance(exchange, Wrapped):
        exchange = exchange.of
    return exchange if isinstance(exchange, Sending) else None


def has_own_wire(exchange: Exchange) -> bool:
    """Returns whether an exchange, or one that it wraps, sends rows in a format of its own, such as codes."""
    return isinstance(exchange, Wrapped) and (exchange.own_wire is not None or has_own_wire(exchange.of))


def wire_of(exchange: Exchange) -> Wire:
    """Wire format of an exchange, or of the one that it wraps; float32 if nothing is sent."""
    while isinstance(exchange, Wrapped):
        if exchange.own_wire is not None:
            return exchange.own_wire
        exchange = exchange.of
    return exchange.wire if isinstance(exchange, Sending) else FLOAT32


def with_wire(exchange: Exchange, wire: Wire) -> Exchange:
    """Returns the exchange with another wire format.

    Raises:
      InputError: if it sends nothing.
    """
    if isinstance(exchange, Wrapped):
        return replace(exchange, of=with_wire(exchange.of, wire))
    if isinstance(exchange, Sending):
        return replace(exchange, wire=wire)
    if wire != FLOAT32:
        raise InputError(f"{exchange} sends nothing, so it takes no wire format")
    return exchange
