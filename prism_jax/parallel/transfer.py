"""Arrays on a mesh whose devices belong to several processes: values that all processes hold, and values that process 0
sends."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def placed(mesh: jax.sharding.Mesh, spec: jax.P, x: Any) -> jax.Array:
    """Places a value that every process holds on a mesh of several processes."""
    if jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key):
        data = placed(mesh, spec, jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, jax.NamedSharding(mesh, spec), lambda index: x[index])


def replicated(mesh: jax.sharding.Mesh, x: Any) -> jax.Array:
    """Places a copy of a value that every process holds on every device of a mesh of several processes."""
    return placed(mesh, jax.P(), x)


@cache
def everywhere(mesh: jax.sharding.Mesh) -> Callable[[Any], Any]:
    """Returns a program that puts a copy of a result on every device."""
    return jax.jit(lambda tree: tree, out_shardings=jax.NamedSharding(mesh, jax.P()))


@dataclass(frozen=True)
class _Piece:
    """Place of a device's piece of an array in the bytes that process 0 sends it."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize

    def read(self, buffer: jax.Array) -> jax.Array:
        own_bytes = buffer[self.start : self.stop]
        if self.dtype == bool:
            return own_bytes.reshape(self.shape).astype(bool)
        width = () if self.dtype.itemsize == 1 else (self.dtype.itemsize,)
        return jax.lax.bitcast_convert_type(own_bytes.reshape(*self.shape, *width), self.dtype)


@cache
def _sender(mesh: jax.sharding.Mesh, pieces: tuple[_Piece, ...], specs: tuple[jax.P, ...]) -> Callable:
    """Returns the program of `send`: every device gets its row of the first device's table, [devices, bytes], and reads
    its pieces from it."""
    axes = mesh.axis_names

    def received(table):
        buffer, device = table[0, 0], jax.lax.axis_index(axes)
        for other in range(1, mesh.devices.size):
            sent = jax.lax.ppermute(table[0, other], axes, [(0, other)])
            buffer = jnp.where(device == other, sent, buffer)
        return tuple(piece.read(buffer) for piece in pieces)

    return jax.jit(jax.shard_map(received, mesh=mesh, in_specs=jax.P(axes), out_specs=specs, check_vma=False))


def send(mesh: jax.sharding.Mesh, trees: tuple, specs: tuple) -> tuple:
    """Puts process 0's trees of arrays on the mesh, sharded by `specs`. Each device receives only its own pieces of cut
    arrays.

    A message from the first device to each of the others, for any number of arrays. Process 0 waits for no answer: an
    all-to-all would bring it zeros from the others, a round trip later.
    """
    leaves, structure = jax.tree.flatten(trees)
    leaves = [np.asarray(x, jax.dtypes.canonicalize_dtype(np.asarray(x).dtype)) for x in leaves]
    leaf_specs = [spec for spec, tree in zip(specs, trees, strict=True) for _ in jax.tree.leaves(tree)]
    shardings = [jax.NamedSharding(mesh, spec) for spec in leaf_specs]
    indices = [sharding.devices_indices_map(x.shape) for sharding, x in zip(shardings, leaves, strict=True)]
    pieces: list[_Piece] = []
    for x, sharding in zip(leaves, shardings, strict=True):
        start = pieces[-1].stop if pieces else 0
        pieces.append(_Piece(start, sharding.shard_shape(x.shape), x.dtype))
    axes, devices = mesh.axis_names, mesh.devices
    table = np.zeros((devices.size, pieces[-1].stop), np.uint8)
    if devices.flat[0] in mesh.local_devices:
        for row, device in zip(table, devices.flat, strict=True):
            cut = [np.ascontiguousarray(x[index[device]]) for x, index in zip(leaves, indices, strict=True)]
            row[:] = np.concatenate([x.reshape(-1).view(np.uint8) for x in cut])
    stacked = jax.make_array_from_callback(
        (devices.size, *table.shape),
        jax.NamedSharding(mesh, jax.P(axes)),
        lambda index: table[None] if index and not index[0].start else np.zeros_like(table)[None],
    )
    return jax.tree.unflatten(structure, _sender(mesh, tuple(pieces), tuple(leaf_specs))(stacked))
