"""Runner with all parts on the same device, and the function of one part without the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prism_jax.errors import InputError
from prism_jax.parallel.partition import PARTS, Parts, split
from prism_jax.parallel.runner import PartFunction, _run_part


@dataclass(frozen=True)
class OnOneDevice:
    """Keeps all parts on the same device. Made by `on_one_device`."""

    num_parts: int

    here = last_here = True

    def split(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Parts:
        return split(batch, self.num_parts, key)

    def shapes(self, params: Any, parts: Parts) -> tuple[Any, Parts]:
        return jax.eval_shape(lambda *args: args, params, parts)

    def replicate(self, tree: Any) -> Any:
        return jax.tree.map(jnp.asarray, tree)

    def broadcast(self, tree: Any) -> Any:
        return tree

    def fetch(self, tree: Any) -> Any:
        return jax.device_get(tree)

    def __call__(self, function: PartFunction, params: Any, parts: Parts) -> jax.Array:
        return self.each(function, params, parts)

    def each(self, function: PartFunction, params: Any, parts: Parts) -> Any:
        def cut(x: jax.Array) -> jax.Array:
            return x.reshape(x.shape[0], self.num_parts, -1, *x.shape[2:])

        real_BN = jnp.asarray(parts.real_BN)  # NumPy's, outside of jit

        def one_part(tokens: dict[str, jax.Array]) -> Any:
            return _run_part(function, parts.num_parts, parts.num_tokens, params, tokens, real_BN, parts.keys_B)

        run = jax.vmap(one_part, in_axes=1, out_axes=1, axis_name=PARTS, axis_size=self.num_parts)
        stacked = run(jax.tree.map(cut, parts.tokens))
        return jax.tree.map(lambda x: x.reshape(x.shape[0], -1, *x.shape[3:]), stacked)

    def one_by_one(self, function: Callable[[Any, Any], Any], params: Any, batch: Any) -> Any:
        return jax.lax.map(partial(function, params), batch)

    def last_part(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: x[:, -(x.shape[1] // self.num_parts) :], tree)

    def last_copy(self, tree: Any) -> Any:
        return tree

    def from_last(self, x: np.ndarray) -> np.ndarray:
        return x


def on_one_device(num_parts: int) -> OnOneDevice:
    """Returns a runner that keeps `num_parts` parts on the same device: for fine-tuning and accuracy without a mesh."""
    if num_parts < 1:
        raise InputError(f"num_parts is {num_parts}; choose 1 or more")
    return OnOneDevice(num_parts)


def alone(function: PartFunction, num_parts: int) -> PartFunction:
    """Returns the function of one part among `num_parts`, run without the others.

    The part computes all that it does among them, encoding and decoding included. What it receives from each of them
    is a copy of what it sends.
    """
    return jax.vmap(function, in_axes=None, out_axes=None, axis_name=PARTS, axis_size=num_parts)  # type: ignore[arg-type]
