"""Exchanges as text: on the command line, in results."""

import inspect
from collections.abc import Iterator

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange, Exchanges, name_of
from prism_jax.exchange.wire import FLOAT32, WIRES
from prism_jax.exchange.wrapped import Wrapped, with_wire


def text_of(exchange: Exchanges) -> str:
    """Returns the text that `parse` reads."""
    return ",".join(map(str, exchange)) if isinstance(exchange, tuple) else str(exchange)


def parse(text: str) -> Exchanges:
    """Returns the exchange of a text: its name, its parameters and its wire format, as `segment_means:8:int8`.

    Commas separate one exchange for each block. The text of a `Wrapped` one ends with that of the exchange that it
    wraps. Every subclass of `Exchange` that was imported is known.

    Raises:
      InputError: if the name is unknown, or the parameters or the wire format don't fit.
    """
    exchanges = tuple(map(_parse_one, text.split(",")))
    return exchanges[0] if len(exchanges) == 1 else exchanges


def _parse_one(text: str) -> Exchange:
    kinds = _kinds()
    name, *values = text.strip().split(":")
    if name not in kinds:
        raise InputError(f"unknown exchange {name!r}; known are {', '.join(sorted(kinds))}")
    kind, parameters = kinds[name], kinds[name].parameters()
    wrapped, rest = issubclass(kind, Wrapped), ":".join(values[len(parameters) :])
    try:
        given = {field: as_type(value) for (field, as_type), value in zip(parameters.items(), values, strict=False)}
    except (TypeError, ValueError):
        given = {}
    if len(given) != len(parameters) or not (rest if wrapped else rest in ("", *WIRES)):
        form = ":".join([name, *parameters, *(["EXCHANGE"] if wrapped else [])])
        more = (
            "and an exchange such as all_gather at the end"
            if wrapped
            else f"behind it may stand a wire format, one of {', '.join(WIRES)}"
        )
        raise InputError(f"exchange {text!r} does not fit the form {form!r}, with numbers for the names; {more}")
    if issubclass(kind, Wrapped):
        return kind(of=_parse_one(rest), **given)
    return with_wire(kind(**given), WIRES[rest] if rest else FLOAT32)


def _kinds() -> dict[str, type[Exchange]]:
    """Returns the exchanges by name. A later one replaces a user's of the same name, whose file was loaded again.

    Raises:
      InputError: if a user's exchange has the name of one in prism_jax.
    """
    kinds: dict[str, type[Exchange]] = {}
    for kind in _descendants(Exchange):
        name = name_of(kind)
        if name in kinds and any(known.__module__.startswith("prism_jax.") for known in (kind, kinds[name])):
            raise InputError(
                f"an exchange of your own is called {name!r}, as one of prism_jax is; give it another name"
            )
        kinds[name] = kind
    return kinds


def _descendants(kind: type) -> Iterator[type]:
    subclass: type
    for subclass in kind.__subclasses__():
        if not inspect.isabstract(subclass) and not subclass.__name__.startswith("_"):
            yield subclass
        yield from _descendants(subclass)
