"""Wire formats: how the rows that a part sends are written as bytes.

A format is a frozen value that an exchange holds. Only rows that cross the mesh are rounded; a part's own rows stay
exact, and received rows are float32 again. Sixteen-bit formats travel as integers of 16 bits: XLA on a CPU would send
a bfloat16 array as float32 without a word.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp


class Wire(abc.ABC):
    """Converts rows to the array that travels, and back. Subclasses are frozen dataclasses.

    Attributes:
      name: of the format, on the command line and in results.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def encode(self, z_BLD: jax.Array) -> jax.Array:
        """Returns the rows as one array [B, L, E], scales included: one collective sends it."""

    @abc.abstractmethod
    def decode(self, sent: jax.Array) -> jax.Array:
        """Returns the rows [..., L, D] in float32, from [..., L, E]."""

    @abc.abstractmethod
    def row_bytes(self, features: int) -> int:
        """Number of bytes of a row of D features."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Float32(Wire):
    """Full precision."""

    name = "float32"

    def encode(self, z_BLD: jax.Array) -> jax.Array:
        return z_BLD

    def decode(self, sent: jax.Array) -> jax.Array:
        return sent

    def row_bytes(self, features: int) -> int:
        return 4 * features


class _SixteenBits(Wire):
    """A floating-point format of 16 bits, which travels as integers of 16 bits."""

    dtype: ClassVar[type]

    def encode(self, z_BLD: jax.Array) -> jax.Array:
        limit = float(jnp.finfo(self.dtype).max)
        held_BLD = jnp.where(jnp.isfinite(z_BLD), jnp.clip(z_BLD, -limit, limit), z_BLD)
        return jax.lax.bitcast_convert_type(held_BLD.astype(self.dtype), jnp.uint16)

    def decode(self, sent: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(sent, self.dtype).astype(jnp.float32)

    def row_bytes(self, features: int) -> int:
        return 2 * features


@dataclass(frozen=True)
class Float16(_SixteenBits):
    """11 bits of precision; a finite number beyond 65504 is sent as 65504."""

    name, dtype = "float16", jnp.float16


@dataclass(frozen=True)
class Bfloat16(_SixteenBits):
    """8 bits of precision, the range of float32."""

    name, dtype = "bfloat16", jnp.bfloat16


@dataclass(frozen=True)
class Int8(Wire):
    """Whole numbers from -127 to 127 times a float32 scale for each row, which travels as 4 more bytes of the row."""

    name = "int8"

    def encode(self, z_BLD: jax.Array) -> jax.Array:
        scale_BL1 = jnp.maximum(jnp.abs(z_BLD).max(-1, keepdims=True) / 127, jnp.finfo(jnp.float32).tiny)
        q_BLD = jnp.round(z_BLD / scale_BL1).astype(jnp.int8)
        scale_BL4 = jax.lax.bitcast_convert_type(scale_BL1[..., 0], jnp.int8)
        return jnp.concatenate([q_BLD, scale_BL4], axis=-1)

    def decode(self, sent: jax.Array) -> jax.Array:
        scale = jax.lax.bitcast_convert_type(sent[..., -4:], jnp.float32)
        return sent[..., :-4].astype(jnp.float32) * scale[..., None]

    def row_bytes(self, features: int) -> int:
        return features + 4


FLOAT32, FLOAT16, BFLOAT16, INT8 = Float32(), Float16(), Bfloat16(), Int8()
WIRES: dict[str, Wire] = {wire.name: wire for wire in (FLOAT32, FLOAT16, BFLOAT16, INT8)}
"""Formats by name. A format that is added here is known on the command line."""
