"""Paths that a user gives in flags and config files. `~` in them stands for the home folder, as in a shell."""

import dataclasses
import os
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

Record = TypeVar("Record")

_MARK = "may begin with ~"

UserPath = Annotated[str, _MARK]
"""Type of a field that holds a path, or a name that may be a path, for example a hub id."""


def expand(record: Record) -> Record:
    """Returns a dataclass with `~` expanded in every UserPath field, also in nested dataclasses."""
    new = {}
    for name, hint in get_type_hints(type(record), include_extras=True).items():
        value, bare = getattr(record, name), get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if isinstance(bare, type) and dataclasses.is_dataclass(bare):
            new[name] = expand(value)
        elif holds_path(hint):
            new[name] = _expanded(value)
    return dataclasses.replace(record, **new)  # type: ignore[type-var]


def holds_path(hint: Any) -> bool:
    """Returns whether a type contains UserPath."""
    return hint == _MARK or any(map(holds_path, get_args(hint)))


def _expanded(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    return os.path.expanduser(value) if isinstance(value, str) else value
