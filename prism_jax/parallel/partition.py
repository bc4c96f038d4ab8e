"""Cuts a sequence into parts, and describes each part's place in it."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from prism_jax.errors import InputError

PARTS = "parts"
"""Name of the axis over which a sequence is cut."""


@flax.struct.dataclass
class Parts:
    """A batch of sequences, padded so that it cuts into equal parts.

    Attributes:
      tokens: arrays [B, P*T, ...]. Each part gets only its own slice of axis 1.
      real_BN: bool, whether each token is real. Every part holds the whole mask, so masks need no communication.
      keys_B: one random key for each example, for dropout; None without randomness.
      num_tokens: N, before padding to P*T.
      num_parts: P, the number of parts.
    """

    tokens: dict[str, jax.Array]
    real_BN: jax.Array
    keys_B: jax.Array | None
    num_tokens: int = flax.struct.field(pytree_node=False)
    num_parts: int = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Layout:
    """Information about the whole sequence that each part holds without communication.

    Attributes:
      part: int scalar, the index of this part.
      real_BN: bool, whether each of the P*T tokens is real.
      keys_B: one random key for each example, specific to this part; None without randomness.
      num_parts: P.
      num_tokens: N, before padding to P*T.
      block: index of the Transformer block that is running.
      memory: what the exchange of the block before handed on, see `Context`. None in front of the first block.
    """

    part: jax.Array
    real_BN: jax.Array
    keys_B: jax.Array | None
    num_parts: int = flax.struct.field(pytree_node=False)
    num_tokens: int = flax.struct.field(pytree_node=False)
    block: int = flax.struct.field(pytree_node=False, default=0)
    memory: Any = None

    @property
    def block_keys_B(self) -> jax.Array | None:
        """Random keys of this block, one for each example; None without randomness."""
        return None if self.keys_B is None else jax.vmap(jax.random.fold_in, (0, None))(self.keys_B, self.block)

    @property
    def part_len(self) -> int:
        """T, the number of tokens of a part."""
        return self.real_BN.shape[1] // self.num_parts

    @property
    def real_BPT(self) -> jax.Array:
        """Bool mask of the real tokens, by part."""
        return self.real_BN.reshape(-1, self.num_parts, self.part_len)

    @property
    def real_BT(self) -> jax.Array:
        """Bool mask of the real tokens among this part's tokens."""
        return self._own(self.real_BN)

    @property
    def real_before_BN(self) -> jax.Array:
        """Number of real tokens before each token of the whole sequence."""
        return jnp.cumsum(self.real_BN, axis=1, dtype=jnp.int32) - self.real_BN

    @property
    def real_before_BT(self) -> jax.Array:
        """Number of real tokens in the whole sequence before each of this part's tokens."""
        return self._own(self.real_before_BN)

    def places(self, positions: jax.Array) -> jax.Array:
        """Number of real tokens before given positions of the whole sequence, [K] or [B, K]. Returns [B, K]."""
        each = jnp.broadcast_to(positions, (len(self.real_BN), positions.shape[-1]))
        return jnp.take_along_axis(self.real_before_BN, each, axis=1, mode="clip")

    def _own(self, x_BN: jax.Array) -> jax.Array:
        x_BPT = x_BN.reshape(self.real_BPT.shape)
        return jax.lax.dynamic_index_in_dim(x_BPT, self.part, axis=1, keepdims=False)

    @property
    def positions_PT(self) -> jax.Array:
        """Positions of all tokens in the whole sequence."""
        return jnp.arange(self.real_BN.shape[1], dtype=jnp.int32).reshape(self.num_parts, self.part_len)

    @property
    def positions_T(self) -> jax.Array:
        """Positions of this part's tokens in the whole sequence."""
        return self.part * self.part_len + jnp.arange(self.part_len, dtype=jnp.int32)


def part_length(num_tokens: int, num_parts: int) -> int:
    """Returns T = ceil(N/P), the number of tokens of a part."""
    return -(-num_tokens // num_parts)


def check_parts(num_parts: int, num_tokens: int) -> None:
    """Raises InputError if N tokens don't cut into P parts."""
    if num_tokens < 1:
        raise InputError(f"num_tokens is {num_tokens}; choose 1 or more")
    if not 1 <= num_parts <= num_tokens:
        raise InputError(
            f"{num_parts} parts asked for, but the sequence has {num_tokens} tokens; choose 1 to {num_tokens}"
        )


def split(batch: Mapping[str, Any], num_parts: int, key: jax.Array | None = None) -> Parts:
    """Pads a batch from N to P*T tokens, T = ceil(N/P); cutting axis 1 into P equal pieces then gives the parts.

    Args:
      batch: arrays [B, N, ...] with a value for each token. The optional key "mask" marks the real tokens with 1.
      num_parts: P; it need not divide N.
      key: random key for dropout.

    Raises:
      InputError: if there are more parts than tokens, or arrays of different lengths.
    """
    tokens = {name: value for name, value in batch.items() if name != "mask"}
    shapes = {name: value.shape[:2] for name, value in batch.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise InputError(f"the arrays of a batch begin with {shapes}; give them all as [B, N, ...], with one B and N")
    batch_size, num_tokens = next(iter(shapes.values()))
    check_parts(num_parts, num_tokens)
    pad = num_parts * part_length(num_tokens, num_parts) - num_tokens
    xp = np if all(isinstance(value, np.ndarray) for value in batch.values()) else jnp

    def padded(value):
        return xp.pad(value, [(0, 0), (0, pad)] + [(0, 0)] * (value.ndim - 2))

    mask = batch.get("mask", xp.ones((batch_size, num_tokens), bool))
    return Parts(
        tokens={name: padded(value) for name, value in tokens.items()},
        real_BN=padded(mask).astype(bool),
        keys_B=None if key is None else jax.random.split(key, batch_size),
        num_tokens=num_tokens,
        num_parts=num_parts,
    )
