"""An array that an exchange owns in every block."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class BlockArray:
    """An array that an exchange owns in every block, float32.

    Attributes:
      shape: of the array.
      start: initial value of every element, for an array that is trained; `train.calibrate` fits it too. None for one
        that comes from a file, which training leaves as it is: `train.calibrate` makes those of codebooks and bases.
    """

    shape: tuple[int, ...]
    start: float | None = None


def array_field() -> Any:
    """Returns the field of an exchange that holds one of its arrays, None before the exchange is bound. The
    field is not part of the exchange's text, and equality ignores it."""
    return field(default=None, kw_only=True, compare=False, repr=False)
