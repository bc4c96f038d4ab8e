"""Exchanges as text: on the command line, in results."""

import inspect
from collections.abc import Iterator

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange, Exchanges, Wrapped, name_of, numbers, with_wire
from prism_jax.exchange.wire import FLOAT32, WIRES


def text_of(exchange: Exchanges) -> str:
    """What `parse` reads."""
    return ",".join(map(str, exchange)) if isinstance(exchange, tuple) else str(exchange)


def parse(text: str) -> Exchanges:
    """An exchange from its text: `all_gather`, `segment_means:8`, `segment_means:8:int8`; several with commas between them,
    one a block. That of a wrapped one ends with the one that it wraps.

    Every subclass of `Exchange` that has been imported is known, a user's own too.

    Raises:
      InputError: if the name is unknown, or the numbers or the wire format don't fit.
    """
    each = tuple(_parse_one(one) for one in text.split(","))
    return each[0] if len(each) == 1 else each


def _parse_one(text: str) -> Exchange:
    kinds = _kinds()
    name, *values = text.strip().split(":")
    if name not in kinds:
        raise InputError(f"unknown exchange {name!r}; known are {', '.join(sorted(kinds))}")
    kind, expected = kinds[name], numbers(kinds[name])
    wrapped, rest = issubclass(kind, Wrapped), ":".join(values[len(expected) :])
    try:
        given = {one: as_type(value) for (one, as_type), value in zip(expected.items(), values, strict=False)}
    except (TypeError, ValueError):
        given = {}
    if len(given) != len(expected) or not (rest if wrapped else rest in ("", *WIRES)):
        form = ":".join([name, *expected, *(["EXCHANGE"] if wrapped else [])])
        raise InputError(
            f"exchange {text!r} does not fit the form {form!r}, with numbers for the names; "
            f"behind it may stand a wire format, one of {', '.join(WIRES)}"
        )
    if issubclass(kind, Wrapped):
        return kind(of=_parse_one(rest), **given)
    return with_wire(kind(**given), WIRES[rest] if rest else FLOAT32)


def _kinds() -> dict[str, type[Exchange]]:
    """The exchanges by name. Of two of a user's own the later one: a file that was loaded again.

    Raises:
      InputError: if one has the name of one of ours.
    """
    kinds: dict[str, type[Exchange]] = {}
    for kind in _descendants(Exchange):
        name = name_of(kind)
        if name in kinds and any(one.__module__.startswith("prism_jax.") for one in (kind, kinds[name])):
            raise InputError(
                f"an exchange of your own is called {name!r}, as one of prism_jax is; give it another name"
            )
        kinds[name] = kind
    return kinds


def _descendants(kind: type) -> Iterator[type]:
    one: type
    for one in kind.__subclasses__():
        if not inspect.isabstract(one):
            yield one
        yield from _descendants(one)
