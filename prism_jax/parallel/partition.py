"""Cut a sequence into parts, and tell each part where it stands."""

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
      tokens: arrays [B, P*T, ...]; a part gets its own slice of axis 1 and nothing else.
      real_BN: bool, which tokens are real. Every part knows all of it: masks need no communication.
      keys_B: one random key an example, for dropout; None when nothing is random.
      num_tokens: N, before padding to P*T.
      num_parts: P, for which it was split.
    """

    tokens: dict[str, jax.Array]
    real_BN: jax.Array
    keys_B: jax.Array | None
    num_tokens: int = flax.struct.field(pytree_node=False)
    num_parts: int = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Layout:
    """What one part knows of the whole sequence without asking anybody.

    Attributes:
      part: int scalar, the index of this part.
      real_BN: bool, which of the P*T tokens are real.
      keys_B: one random key an example, already this part's own; None when nothing is random.
      num_parts: P.
      num_tokens: N, before padding to P*T.
      block: index of the Transformer block that is running.
    """

    part: jax.Array
    real_BN: jax.Array
    keys_B: jax.Array | None
    num_parts: int = flax.struct.field(pytree_node=False)
    num_tokens: int = flax.struct.field(pytree_node=False)
    block: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def block_keys_B(self) -> jax.Array | None:
        """This block's random keys, one an example; None when nothing is random."""
        return None if self.keys_B is None else jax.vmap(jax.random.fold_in, (0, None))(self.keys_B, self.block)

    @property
    def part_len(self) -> int:
        """T, the tokens of a part."""
        return self.real_BN.shape[1] // self.num_parts

    @property
    def real_BPT(self) -> jax.Array:
        return self.real_BN.reshape(-1, self.num_parts, self.part_len)

    @property
    def real_BT(self) -> jax.Array:
        """Which of this part's own tokens are real."""
        return self._own(self.real_BN)

    @property
    def real_before_BT(self) -> jax.Array:
        """How many real tokens of the whole sequence stand before each of this part's own tokens."""
        return self._own(jnp.cumsum(self.real_BN, axis=1, dtype=jnp.int32) - self.real_BN)

    def _own(self, x_BN: jax.Array) -> jax.Array:
        x_BPT = x_BN.reshape(self.real_BPT.shape)
        return jax.lax.dynamic_index_in_dim(x_BPT, self.part, axis=1, keepdims=False)

    @property
    def positions_PT(self) -> jax.Array:
        """Position of every token in the whole sequence."""
        return jnp.arange(self.real_BN.shape[1], dtype=jnp.int32).reshape(self.num_parts, self.part_len)

    @property
    def positions_T(self) -> jax.Array:
        """Position of this part's own tokens in the whole sequence."""
        return self.part * self.part_len + jnp.arange(self.part_len, dtype=jnp.int32)


def part_length(num_tokens: int, num_parts: int) -> int:
    """T = ceil(N/P)."""
    return -(-num_tokens // num_parts)


def check_parts(num_parts: int, num_tokens: int) -> None:
    """Raises InputError if N tokens don't cut into P parts."""
    if not 1 <= num_parts <= num_tokens:
        raise InputError(
            f"{num_parts} parts asked for, but the sequence has {num_tokens} tokens; choose 1 to {num_tokens}"
        )


def split(batch: Mapping[str, Any], num_parts: int, key: jax.Array | None = None) -> Parts:
    """Pads a batch from N to P*T tokens, T = ceil(N/P); cutting axis 1 into P equal pieces then gives the parts.

    Args:
      batch: arrays [B, N, ...] with a value per token. The key "mask" (1 = real, optional) says which tokens are real.
      num_parts: P; it need not divide N.
      key: random key for dropout.

    Raises:
      InputError: if there are more parts than tokens, or arrays of different lengths.
    """
    tokens = {name: value for name, value in batch.items() if name != "mask"}
    shapes = {name: value.shape[:2] for name, value in batch.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise InputError(f"every array of a batch is [B, N, ...] with the same B and N, but these are {shapes}")
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
