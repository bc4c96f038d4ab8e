"""The classes of a head by name: whether a checkpoint and a data set mean the same by class 0."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prism_jax.errors import InputError


def said_by(id2label: Any, label2id: Any) -> tuple[str, ...]:
    """The names of the classes by what a config says: by `label2id` where `id2label` has nothing but numbers.

    Raises:
      InputError: if they are no objects, the ids are not 0, 1, 2 and so on, or the two give the same names
        another order.
    """
    for attribute, value in (("id2label", id2label), ("label2id", label2id)):
        if not isinstance(value, Mapping | None):
            raise InputError(
                f"{attribute} of the model's config.json is {value!r}; it must be an object, one entry a class"
            )
    names = _in_order(id2label or {}, "id2label")
    again = _in_order({str(index): name for name, index in (label2id or {}).items()}, "label2id")
    if _say_nothing(names):
        return names if _say_nothing(again) else again
    first, second = ([name.casefold() for name in both] for both in (names, again))
    if first != second and sorted(first) == sorted(second):
        raise InputError(
            f"id2label of the model's config.json says {shown(names)}, and label2id {shown(again)}; correct one of them"
        )
    return names


def order(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    """Where each of our classes stands among theirs: by name, in any case if need be,
    or by number where one side has no names.

    Raises:
      InputError: if the names are not the same.
    """
    for same in (str, str.casefold):
        place = {same(name): i for i, name in enumerate(theirs)}
        wanted = [same(name) for name in ours]
        if len(place) == len(theirs) and sorted(place) == sorted(wanted):
            return [place[name] for name in wanted]
    if len(theirs) == len(ours) and (_say_nothing(theirs) or _say_nothing(ours)):
        return list(range(len(ours)))
    lacking = [name for name in ours if name not in theirs] or ours
    raise InputError(
        f"the model's classes are {shown(theirs)}, and those of the data set {shown(ours)}, "
        f"without {shown(lacking)} in the model; write the data set's names into id2label of the model's config.json, "
        "each beside the number of its class, or train a new classifier"
    )


def unknown(number: int) -> tuple[str, ...]:
    """The names that Hugging Face's library gives to classes without names."""
    return tuple(f"LABEL_{i}" for i in range(number))


def shown(names: Sequence[str]) -> str:
    """Names in one line, at most eight of them."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"


def _in_order(by_id: Mapping[Any, Any], attribute: str) -> tuple[str, ...]:
    try:
        names = {int(index): str(name) for index, name in by_id.items()}
    except (TypeError, ValueError):
        names = {}
    if sorted(names) != list(range(len(by_id))):
        raise InputError(
            f"{attribute} of the model's config.json numbers its classes {', '.join(map(str, by_id))}; "
            f"number them from 0 to {len(by_id) - 1}"
        )
    return tuple(names[i] for i in range(len(names)))


def _say_nothing(names: Sequence[str]) -> bool:
    """Whether names are nothing but numbers, such as LABEL_0, LABEL_1."""
    return all(re.fullmatch(rf"(label[_ ]?)?{i}", name, re.IGNORECASE) for i, name in enumerate(names))
