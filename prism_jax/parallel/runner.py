"""Run a function on every part.

Two runners, one contract. `on_mesh` gives every part a device of its own (`jax.shard_map`); `on_one_device` keeps
all parts inside one device (`jax.vmap`). The function sees the same arguments and the same collectives in both.

The devices of a mesh may belong to several processes, see `processes`. Then every process makes the same calls; a batch
is the terminal's, and what the others give in its place matters by its shapes alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from prism_jax.parallel.partition import PARTS, Layout, Parts

PartFunction = Callable[[Any, dict[str, jax.Array], Layout], Any]
"""`(params, tokens of one part [B, T, ...], layout) -> rows_BRD`, or a tree of arrays with the batch in front."""


class Runner(Protocol):
    """Runs a function on every part and joins the rows that the parts return."""

    @property
    def num_parts(self) -> int: ...

    def split(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Parts:
        """As `split`, with every array where this runner needs it."""

    def shapes(self, params: Any, parts: Parts) -> tuple[Any, Parts]:
        """Shapes and shardings of `(params, parts)`, to lower a program without weights."""

    @property
    def here(self) -> bool:
        """Whether this process has one of the devices. Where not, nothing below can be called but on other processes."""

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of `tree` (the weights) on every device. Every process has its own, of the same values."""

    def broadcast(self, tree: Any) -> Any:
        """Puts a copy of the terminal's `tree` of numpy arrays on every device."""

    def fetch(self, tree: Any) -> Any:
        """The values of a result, as numpy arrays, on every process that is `here`."""

    def __call__(self, function: PartFunction, params: Any, parts: Parts) -> jax.Array:
        """Runs `function` on every part; returns the joined rows [B, P*R, ...], in the order of the parts."""

    def each(self, function: PartFunction, params: Any, parts: Parts) -> Any:
        """As a call, but every part keeps what it returns: arrays [B, P*R, ...] cut along axis 1, for `last_part`."""

    def one_by_one(self, function: Callable[[Any, Any], Any], params: Any, batch: Any) -> Any:
        """`function(params, example)` of each example of a joined batch, stacked; what it computes is held for one at a time."""

    @property
    def last_here(self) -> bool:
        """Whether this process has the last part's device. Where not, the next two can't be called."""

    def last_part(self, tree: Any) -> Any:
        """What the last part returned, on its device, of what `each` gave. Outside of jit."""

    def last_copy(self, tree: Any) -> Any:
        """The last device's copy of what `replicate` gave. Outside of jit."""

    def from_last(self, x: np.ndarray) -> np.ndarray:
        """The array that the process with the last part's device has, on every process; theirs matter by their shape alone."""


def _run_part(function, num_parts, num_tokens, params, tokens, real_BN, keys_B):
    """The body of both runners: one part, inside an axis named PARTS."""
    part = jax.lax.axis_index(PARTS)
    if keys_B is not None:
        keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, part)
    return function(params, tokens, Layout(part, real_BN, keys_B, num_parts, num_tokens))
