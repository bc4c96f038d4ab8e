"""Exchanges that wrap another one, and the wire format of an exchange, wrapped or not."""

from dataclasses import dataclass, replace
from typing import TypeVar

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
    def keys_values(self) -> bool:
        return self.of.keys_values

    @property
    def remembers(self) -> bool:
        return self.of.remembers

    def read_after(self, block: int, num_blocks: int) -> int | None:
        return self.of.read_after(block, num_blocks)

    @property
    def own_wire(self) -> Wire | None:
        """Wire format in place of that of the other exchange, if any."""
        return None

    def rows_sent(self, part_len: int) -> int:
        return self.of.rows_sent(part_len)

    @property
    def first_rows(self) -> int:
        return self.of.first_rows

    def coded_width(self, features: int) -> int:
        return self.of.coded_width(features)

    def flops(self, part_len: int, num_parts: int, features: int) -> float:
        return self.of.flops(part_len, num_parts, features)

    def check(self, num_tokens: int, num_parts: int) -> None:
        self.of.check(num_tokens, num_parts)

    @classmethod
    def parameters(cls) -> dict[str, type]:
        return {name: kind for name, kind in super().parameters().items() if name != "of"}

    def __str__(self) -> str:
        return f"{super().__str__()}:{self.of}"


Kind = TypeVar("Kind", bound=Exchange)


def inner(exchange: Exchange, kind: type[Kind]) -> Kind | None:
    """Returns the exchange of a class: itself, or one that it wraps. None if there is none."""
    while True:
        if isinstance(exchange, kind):
            return exchange
        if not isinstance(exchange, Wrapped):
            return None
        exchange = exchange.of


def sender(exchange: Exchange) -> Sending | None:
    """Returns the exchange that sends: itself, or the one that it wraps. None if nothing is sent."""
    return inner(exchange, Sending)  # type: ignore[type-abstract]


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
        raise InputError(f"{exchange} sends nothing, so it takes no wire format; leave the wire format out")
    return exchange
