"""Protocols of a runner, by audience.

A runner runs a function on every part. Two runners fulfil all protocols: `on_mesh` gives every part its own device
(`jax.shard_map`), and `on_one_device` keeps all parts on the same device (`jax.vmap`). The function gets the same
arguments and the same collectives in both.

| protocol           | asked for by                                                           |
|--------------------|------------------------------------------------------------------------|
| `Runner`           | a model's path: cut, encode, read                                      |
| `Placement`        | callers that bring parameters to the devices and results back          |
| `LastPart`         | generation, which continues with the last part                         |
| `PlacedRunner`     | prediction, training, measurement: `Runner` and `Placement`            |
| `GenerationRunner` | `Generator`: `PlacedRunner` and `LastPart`                             |

The devices of a mesh may belong to several processes, see `processes`. Then every process makes the same calls. The
batch comes from process 0. The other processes pass arrays of the same shapes, whose values are ignored.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from prism_jax.parallel.partition import PARTS, Layout, Parts

PartFunction = Callable[[Any, dict[str, jax.Array], Layout], Any]
"""`(params, tokens of one part [B, T, ...], layout) -> rows_BRD`, or a tree of arrays with the batch in front."""


class Runner(Protocol):
    """Runs functions on the parts of a batch, and on the rows that the parts return."""

    @property
    def num_parts(self) -> int: ...

    def split(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Parts:
        """Cuts a batch with `partition.split`, and puts every array where this runner needs it."""

    def __call__(self, function: PartFunction, params: Any, parts: Parts) -> jax.Array:
        """Runs `function` on every part; returns the joined rows [B, P*R, ...], in the order of the parts. These
        may be a tree of arrays, but not on a runner of `overlapped`."""

    def each(self, function: PartFunction, params: Any, parts: Parts) -> Any:
        """Runs `function` on every part; leaves the arrays [B, P*R, ...] cut along axis 1, each piece with its part."""

    def one_by_one(self, function: Callable[[Any, Any], Any], params: Any, batch: Any) -> Any:
        """Returns `function(params, example)` for each example of a joined batch, stacked. Computes one example at a
        time."""


class Placement(Protocol):
    """Puts arrays on the devices of the parts, and fetches results."""

    @property
    def here(self) -> bool:
        """True if this process has a device of the parts. If False, only the other processes call the methods below."""

    def shapes(self, params: Any, parts: Parts) -> tuple[Any, Parts]:
        """Returns shapes and shardings of `(params, parts)`, to lower a program without values."""

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of `tree` (the parameters) on every device. All processes hold the same values."""

    def broadcast(self, tree: Any) -> Any:
        """Puts a copy of process 0's `tree` of NumPy arrays on every device."""

    def fetch(self, tree: Any) -> Any:
        """Returns the values of a result as NumPy arrays, on every process that is `here`."""


class LastPart(Protocol):
    """Gives access to the device of the last part. Outside of jit."""

    @property
    def last_here(self) -> bool:
        """True if this process has that device. If False, it can't call `last_part` and `last_copy`."""

    def last_part(self, tree: Any) -> Any:
        """Returns the last part's pieces of a result of `Runner.each`, on its device."""

    def last_copy(self, tree: Any) -> Any:
        """Returns the last device's copy of a result of `Placement.replicate`."""

    def from_last(self, x: np.ndarray) -> np.ndarray:
        """Returns the array of the process with that device, on every process. The others give arrays of its shape."""


class PlacedRunner(Runner, Placement, Protocol):
    """Runs functions on parts, and places their arrays."""


class GenerationRunner(PlacedRunner, LastPart, Protocol):
    """Also gives access to the last part."""


def _run_part(
    function: PartFunction,
    num_parts: int,
    num_tokens: int,
    params: Any,
    tokens: dict[str, jax.Array],
    real_BN: jax.Array,
    keys_B: jax.Array | None,
) -> Any:
    """Runs `function` on one part, inside an axis named PARTS: the body of both runners."""
    part = jax.lax.axis_index(PARTS)
    if keys_B is not None:
        keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, part)
    return function(params, tokens, Layout(part, real_BN, keys_B, num_parts, num_tokens))
