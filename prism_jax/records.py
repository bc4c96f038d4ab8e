"""Checks JSON files, JSON lines and configurations against types when they are read.

The types are TypedDicts and dataclasses whose numbers are bounded by `msgspec.Meta`. msgspec does the checks: it needs
no other package, names the place of a fault in one line, and refuses invalid JSON. (pydantic accepts NaN in JSON, and
its messages have several lines. typeguard, which tyro installs, checks neither bounds nor JSON.)
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta
from tyro.constructors import PrimitiveConstructorSpec

from prism_jax.errors import InputError

T = TypeVar("T")

MOST = 2**31 - 1
"""Upper bound of all counts: the largest int32."""

Count = Annotated[int, Meta(ge=1, le=MOST, description=f"1 or more, up to {MOST}")]
Natural = Annotated[int, Meta(ge=0, le=MOST, description=f"0 or more, up to {MOST}")]
ONE_OR_MORE = Meta(min_length=1, description="one or more")
"""Of the values of a flag."""

NumTokens = Annotated[int, Meta(ge=1, le=2**24, description=f"1 to {2**24} tokens")]
NumParts = Annotated[int, Meta(ge=1, le=2**16, description=f"1 or more, up to {2**16}")]
BatchSize = Annotated[int, Meta(ge=1, le=2**20, description=f"1 or more, up to {2**20}")]
Width = Annotated[int, Meta(ge=1, le=2**20, description=f"1 or more, up to {2**20}")]
Side = Annotated[int, Meta(ge=1, le=8192, description="1 to 8192 pixels")]
Finite = Annotated[float, Meta(ge=-1e30, le=1e30, description="a finite number")]
Positive = Annotated[float, Meta(gt=0, description="a number above 0")]
NotNegative = Annotated[float, Meta(ge=0, description="0 or more")]
Share = Annotated[float, Meta(ge=0, lt=1, description="0 or more, and less than 1")]


def read(path: Path, kind: type[T], way_out: str) -> T:
    """Returns the value of a JSON file. Keys that the type does not have are kept.

    Args:
      path: the file, in UTF-8.
      kind: its type, for example a TypedDict.
      way_out: instruction to the user if the file does not fit, for the message.

    Raises:
      InputError: if the file can't be read, is no JSON, has a key twice, or does not fit the type.
    """
    with refusing(path, way_out):
        return parse(path.read_bytes(), kind)


@contextmanager
def refusing(path: Path, way_out: str) -> Iterator[None]:
    """Turns errors of reading a file into an InputError of one line that ends with the way out."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}; {way_out}") from error
    except ValueError as error:
        raise InputError(f"{path} can't be read: {error}; {way_out}") from error


def parse(text: bytes | str, kind: type[T]) -> T:
    """Returns the value of a JSON text, unchanged.

    Raises:
      ValueError: in one line, if it is no JSON, has a key twice, or does not fit the type.
    """
    try:
        value = msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=_no_key_twice)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return checked(value, kind)


def checked(value: Any, kind: type[T], at: str = "") -> T:
    """Returns a value unchanged if it fits a type.

    Args:
      value: a decoded JSON value.
      kind: the type that it must fit.
      at: place of the value, for example `rows[3]`, for the message.

    Raises:
      ValueError: in one line with the place, if it does not fit.
    """
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        place, reason = _place_and_reason(error)
        where = f"{at}.{place}" if at and place and place[0] != "[" else at + place
        raise ValueError(f"{where}: {reason}" if where else reason) from error
    return value


def check_fields(record: Any, prefix: str = "") -> None:
    """Checks the values of a dataclass and of its nested dataclasses against the types of their fields.

    A field whose type has a tyro constructor is checked by that constructor.

    Args:
      record: an instance of the dataclass.
      prefix: put before each field name in the message, for example `training.`.

    Raises:
      InputError: with the name of the field, its value, and the allowed values.
    """
    for name, hint in get_type_hints(type(record), include_extras=True).items():
        if name not in {field.name for field in dataclasses.fields(record)}:
            continue
        value, full_name = getattr(record, name), prefix + name
        bare, metas = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
        constructor = next((meta for meta in metas if isinstance(meta, PrimitiveConstructorSpec)), None)
        if constructor:
            if not constructor.is_instance(value):
                allowed = next((meta.description for meta in metas if isinstance(meta, Meta)), constructor.metavar)
                raise InputError(f"{full_name} is {_short(value)}; choose {allowed}")
        elif isinstance(bare, type) and dataclasses.is_dataclass(bare):
            if not isinstance(value, bare):
                raise InputError(f"{full_name} is {_short(value)}; it must be {bare.__name__}(...)")
            flat = any(getattr(meta, "name", None) == "" for meta in metas)  # its fields are flags without a prefix
            check_fields(value, prefix if flat else f"{full_name}.")
        else:
            check_value(full_name, value, hint)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raises InputError if a value does not fit a type. The message calls the value `name`."""
    try:
        if isinstance(value, list | set | frozenset):  # msgspec would accept it as a tuple
            raise msgspec.ValidationError(f"Expected tuple, got {type(value).__name__}")
        msgspec.convert(value, hint)
        if not all(map(math.isfinite, _floats(value))):
            raise msgspec.ValidationError("Expected a finite number")
    except msgspec.ValidationError as error:
        place, reason = _place_and_reason(error)
        metas = [item for item in _walk(hint) if isinstance(item, Meta) and item.description]
        if wrong_kind := re.fullmatch("Expected (.*), got (.*)", reason):
            expected, got = map(_in_python, wrong_kind.groups())
            allowed = f"{f'its item {place} ' if place else 'it '}must be {expected}, not {got}"
        elif reason.startswith("Invalid enum value"):
            allowed = f"choose one of {', '.join(item for item in _walk(hint) if isinstance(item, str))}"
        elif metas and "finite" not in reason:
            allowed = f"choose {metas[0 if 'length' in reason else -1].description}"
        else:
            allowed = reason.replace("Expected", "choose")
        raise InputError(f"{name} is {_short(value)}; {allowed}") from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it says {twice[:80]!r} twice")
    return values


def _place_and_reason(error: msgspec.ValidationError) -> tuple[str, str]:
    """Returns the place of the fault, for example `rows[3].tokens`, and msgspec's message."""
    reason, _, place = str(error).replace("`", "").partition(" - at ")
    reason = re.sub("Object missing required field (.*)", r"\1 is missing", reason)
    return place.replace("$.", "").replace("$", ""), reason


def _in_python(name: str) -> str:
    """Returns Python's name of a type, given its name in JSON."""
    return {"array": "a tuple", "tuple": "a tuple", "null": "None", "object": "a dict"}.get(
        name, name.replace("| null", "or None")
    )


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _floats(item)


def _walk(hint: Any) -> Iterator[Any]:
    """Yields the components of a type, recursively, from the outside in."""
    for component in reversed(get_args(hint)) if get_origin(hint) is Annotated else get_args(hint):
        yield component
        yield from _walk(component)


def _short(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # repr may raise anything, for example for an int with too many digits
        text = f"of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
