"""Class names of heads: matches the classes of a checkpoint with those of a data set."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prism_jax.errors import InputError


def names_in_config(id2label: Any, label2id: Any) -> tuple[str, ...]:
    """Returns the class names in a config. Uses `label2id` if `id2label` holds only numbered names.

    Raises:
      InputError: if one of the two is no object, the ids are not 0, 1, 2 and so on, or the two list the same names in
        different orders.
    """
    for attribute, value in (("id2label", id2label), ("label2id", label2id)):
        if not isinstance(value, Mapping | None):
            raise InputError(
                f"{attribute} of the model's config.json is {value!r}; it must be an object, one entry a class"
            )
    names = _in_order(id2label or {}, "id2label")
    again = _in_order({str(index): name for name, index in (label2id or {}).items()}, "label2id")
    if _are_placeholders(names):
        return names if _are_placeholders(again) else again
    first, second = ([name.casefold() for name in listed] for listed in (names, again))
    if first != second and sorted(first) == sorted(second):
        raise InputError(
            f"id2label of the model's config.json says {shown(names)}, and label2id {shown(again)}; correct one of them"
        )
    return names


def order(model_names: Sequence[str], data_names: Sequence[str]) -> list[int]:
    """Returns the index of each class of a data set among the model's classes.

    Classes match by name, exactly or ignoring case. If one side has only placeholder names, they match by number.

    Raises:
      InputError: if the names are not the same.
    """
    for key in (str, str.casefold):
        place = {key(name): i for i, name in enumerate(model_names)}
        wanted = [key(name) for name in data_names]
        if len(place) == len(model_names) and sorted(place) == sorted(wanted):
            return [place[name] for name in wanted]
    if len(model_names) == len(data_names) and (_are_placeholders(model_names) or _are_placeholders(data_names)):
        return list(range(len(data_names)))
    lacking = [name for name in data_names if name not in model_names] or data_names
    raise InputError(
        f"the model's classes are {shown(model_names)}, and those of the data set {shown(data_names)}, "
        f"without {shown(lacking)} in the model; write the data set's names into id2label of the model's config.json, "
        "each beside the number of its class, or train a new classifier"
    )


def placeholder_names(number: int) -> tuple[str, ...]:
    """Returns Hugging Face's placeholder names for classes without names."""
    return tuple(f"LABEL_{i}" for i in range(number))


def shown(names: Sequence[str]) -> str:
    """Returns names in one line, at most eight of them."""
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


def _are_placeholders(names: Sequence[str]) -> bool:
    """Returns whether all names are placeholders with a number, for example LABEL_0, LABEL_1."""
    return all(re.fullmatch(rf"(label[_ ]?)?{i}", name, re.IGNORECASE) for i, name in enumerate(names))
