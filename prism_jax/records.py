"""What others wrote, checked at the door: JSON files, lines and configurations against types that stand once.

The types are TypedDicts and dataclasses whose numbers are bounded by `msgspec.Meta`. msgspec checks them because it
needs nothing else, says in one line where the fault stands, and reads no JSON that isn't. (pydantic takes NaN in JSON
and says it in several lines; typeguard, which tyro brings, knows neither bounds nor JSON.)
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
"""The largest number of anything that an array counts with int32."""

Count = Annotated[int, Meta(ge=1, le=MOST, description=f"1 or more, up to {MOST}")]
Natural = Annotated[int, Meta(ge=0, le=MOST, description=f"0 or more, up to {MOST}")]
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
    """What a JSON file holds, as it stands there: keys that the type does not have stay.

    Args:
      path: the file, in UTF-8.
      kind: its type, such as a TypedDict.
      way_out: what the user can do where it does not fit, for the message.

    Raises:
      InputError: if it can't be read, is no JSON, says a key twice, or does not fit the type.
    """
    with refusing(path, way_out):
        return parse(path.read_bytes(), kind)


@contextmanager
def refusing(path: Path, way_out: str) -> Iterator[None]:
    """Turns what reading a file raises into an InputError of one line, with the way out."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}; {way_out}") from error
    except ValueError as error:
        raise InputError(f"{path} can't be read: {error}; {way_out}") from error


def parse(text: bytes | str, kind: type[T]) -> T:
    """What a JSON text holds, as it stands there.

    Raises:
      ValueError: if it is no JSON, says a key twice, or does not fit the type. It says so in one line.
    """
    try:
        value = msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=_no_key_twice)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return checked(value, kind)


def checked(value: Any, kind: type[T], at: str = "") -> T:
    """A value as it is, if it fits a type.

    Args:
      value: of JSON.
      kind: the type.
      at: where the value stands, such as `rows[3]`, for the message.

    Raises:
      ValueError: if it doesn't. It says where, in one line.
    """
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        place, reason = _place_and_reason(error)
        where = f"{at}.{place}" if at and place and place[0] != "[" else at + place
        raise ValueError(f"{where}: {reason}" if where else reason) from error
    return value


def check_fields(record: Any, prefix: str = "") -> None:
    """Checks the values of a dataclass, and of dataclasses in it, against the types of its fields.

    A field whose type has a constructor of its own for the command line is checked by that.

    Args:
      record: the dataclass.
      prefix: stands before the names of its fields in the message, such as `training.`.

    Raises:
      InputError: naming the field, what it is, and what is allowed.
    """
    for name, hint in get_type_hints(type(record), include_extras=True).items():
        if name not in {field.name for field in dataclasses.fields(record)}:
            continue
        value, said = getattr(record, name), prefix + name
        bare, metas = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
        constructor = next((one for one in metas if isinstance(one, PrimitiveConstructorSpec)), None)
        if constructor:
            if not constructor.is_instance(value):
                allowed = next((one.description for one in metas if isinstance(one, Meta)), constructor.metavar)
                raise InputError(f"{said} is {_short(value)}; choose {allowed}")
        elif isinstance(bare, type) and dataclasses.is_dataclass(bare):
            if not isinstance(value, bare):
                raise InputError(f"{said} is {_short(value)}; it must be {bare.__name__}(...)")
            flat = any(getattr(one, "name", None) == "" for one in metas)  # its fields are flags without a prefix
            check_fields(value, prefix if flat else f"{said}.")
        else:
            check_value(said, value, hint)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raises InputError if a value does not fit a type; `name` is what the message calls it."""
    try:
        if isinstance(value, list | set | frozenset):  # which msgspec takes for a tuple
            raise msgspec.ValidationError(f"Expected tuple, got {type(value).__name__}")
        msgspec.convert(value, hint)
        if not all(map(math.isfinite, _floats(value))):
            raise msgspec.ValidationError("Expected a finite number")
    except msgspec.ValidationError as error:
        place, reason = _place_and_reason(error)
        metas = [one for one in _walk(hint) if isinstance(one, Meta) and one.description]
        if wrong_kind := re.fullmatch("Expected (.*), got (.*)", reason):
            expected, got = (_in_python(one) for one in wrong_kind.groups())
            allowed = f"{f'its item {place} ' if place else 'it '}must be {expected}, not {got}"
        elif reason.startswith("Invalid enum value"):
            allowed = f"choose one of {', '.join(str(one) for one in _walk(hint) if isinstance(one, str))}"
        elif metas and "finite" not in reason:
            allowed = f"choose {metas[0 if 'length' in reason else -1].description}"
        else:
            allowed = reason.replace("Expected", "choose")
        raise InputError(f"{name} is {_short(value)}; {allowed}") from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it says {twice[:80]!r} twice")
    return found


def _place_and_reason(error: msgspec.ValidationError) -> tuple[str, str]:
    """Where the fault stands, such as `rows[3].tokens`, and msgspec's message."""
    reason, _, place = str(error).replace("`", "").partition(" - at ")
    reason = re.sub("Object missing required field (.*)", r"\1 is missing", reason)
    return place.replace("$.", "").replace("$", ""), reason


def _in_python(name: str) -> str:
    """A type as Python calls it, which msgspec calls as JSON does."""
    return {"array": "a tuple", "tuple": "a tuple", "null": "None", "object": "a dict"}.get(
        name, name.replace("| null", "or None")
    )


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _floats(one)


def _walk(hint: Any) -> Iterator[Any]:
    """What stands in a type: its parts, from the outside in."""
    for one in reversed(get_args(hint)) if get_origin(hint) is Annotated else get_args(hint):
        yield one
        yield from _walk(one)


def _short(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever a value of any kind makes of it, such as an int of more digits than Python writes
        text = f"of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
