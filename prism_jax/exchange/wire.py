"""Wire formats: how the rows that a part sends are written as bytes.

A format is a frozen value that an exchange holds. Only rows that cross the mesh are rounded; a part's own rows stay
exact, and received rows are float32 again. Sixteen-bit formats travel as integers of 16 bits: XLA on a CPU
would send a bfloat16 array as float32.
"""

import abc
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from prism_jax.errors import InputError


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
    def decode(self, sent: jax.Array, features: int) -> jax.Array:
        """Returns the rows [..., L, D] in float32, from [..., L, E] and D."""

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

    def decode(self, sent: jax.Array, features: int) -> jax.Array:
        return sent

    def row_bytes(self, features: int) -> int:
        return 4 * features


class _SixteenBits(Wire):
    """A floating-point format of 16 bits, which travels as integers of 16 bits."""

    dtype: ClassVar[DTypeLike]

    def encode(self, z_BLD: jax.Array) -> jax.Array:
        limit = float(jnp.finfo(self.dtype).max)
        held_BLD = jnp.where(jnp.isfinite(z_BLD), jnp.clip(z_BLD, -limit, limit), z_BLD)
        return jax.lax.bitcast_convert_type(held_BLD.astype(self.dtype), jnp.uint16)

    def decode(self, sent: jax.Array, features: int) -> jax.Array:
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

    def decode(self, sent: jax.Array, features: int) -> jax.Array:
        scale = jax.lax.bitcast_convert_type(sent[..., -4:], jnp.float32)
        return sent[..., :-4].astype(jnp.float32) * scale[..., None]

    def row_bytes(self, features: int) -> int:
        return features + 4


GROUP = 64
"""Most features that share an offset and a step."""


class _FewBits(Wire):
    """Whole numbers of a few bits: the steps by which a feature lies above an offset. A group of features shares both.

    A row is divided into equal groups of up to 64 features. The offset is rounded down and the step up to bfloat16, so
    every number below 1e38 lies in range and arrives within half a step. The two travel as 4 more bytes a group. A
    group with a number that is not finite arrives as numbers that are not finite.
    """

    bits: ClassVar[int]

    def encode(self, z_BLD: jax.Array) -> jax.Array:
        *rows, features = z_BLD.shape
        groups, size = _groups(features)
        padded = jnp.pad(z_BLD, [*[(0, 0)] * len(rows), (0, groups * size - features)], mode="edge")
        z_BLXE = padded.reshape(*rows, groups, size)
        top, low_BLX, high_BLX = 2**self.bits - 1, z_BLXE.min(-1), z_BLXE.max(-1)
        offset_BLX = (low_BLX - jnp.abs(low_BLX) * 2.0**-8).astype(jnp.bfloat16)
        width_BLX = high_BLX - offset_BLX.astype(jnp.float32)
        step_BLX = (width_BLX * ((1 + 2.0**-7) / top)).astype(jnp.bfloat16)
        per_step_BLX = 1 / jnp.maximum(step_BLX.astype(jnp.float32), jnp.finfo(jnp.float32).tiny)
        steps_BLXE = (z_BLXE - offset_BLX.astype(jnp.float32)[..., None]) * per_step_BLX[..., None]
        q_BLXE = jnp.clip(jnp.round(steps_BLXE), 0, top).astype(jnp.uint8)
        scales_BLX4 = jax.lax.bitcast_convert_type(jnp.stack([offset_BLX, step_BLX], -1), jnp.uint8)
        return jnp.concatenate([*pack(q_BLXE.reshape(*rows, -1), self.bits), scales_BLX4.reshape(*rows, -1)], -1)

    def decode(self, sent: jax.Array, features: int) -> jax.Array:
        *rows, _ = sent.shape
        groups, size = _groups(features)
        packed, scales = jnp.split(sent, [groups * size * self.bits // 8], axis=-1)
        offset, step = jnp.moveaxis(
            jax.lax.bitcast_convert_type(scales.reshape(*rows, groups, 2, 2), jnp.bfloat16).astype(jnp.float32), -1, 0
        )
        steps = unpack(packed, self.bits).reshape(*rows, groups, size).astype(jnp.float32)
        z = offset[..., None] + steps * step[..., None]
        return z.reshape(*rows, -1)[..., :features]

    def row_bytes(self, features: int) -> int:
        groups, size = _groups(features)
        return groups * (size * self.bits // 8 + 4)


def _groups(features: int) -> tuple[int, int]:
    """Returns the number of groups of a row, and the features of a group, a multiple of 8.
    The last feature is repeated to fill them."""
    groups = -(-features // GROUP)
    return groups, -(-features // (8 * groups)) * 8


WIDTHS = {4: (4,), 3: (2, 1), 2: (2,)}
"""Bits of a number, divided into shares. Bytes are filled with shares of one width."""


def pack(q: jax.Array, bits: int) -> list[jax.Array]:
    """Returns numbers [..., M] below 2**bits as bytes, [..., M * bits / 8] in all."""
    packed, below = [], 0
    for width in WIDTHS[bits]:
        share = (q >> below) & (2**width - 1)
        chunks = jnp.split(share, 8 // width, axis=-1)
        packed.append(functools.reduce(jnp.bitwise_or, (chunk << (i * width) for i, chunk in enumerate(chunks))))
        below += width
    return packed


def unpack(packed: jax.Array, bits: int) -> jax.Array:
    """Returns the numbers of bytes from `pack`."""
    below, start, shares = 0, 0, []
    for width in WIDTHS[bits]:
        end = start + packed.shape[-1] * width // bits
        chunks = [(packed[..., start:end] >> (i * width)) & (2**width - 1) for i in range(8 // width)]
        shares.append(jnp.concatenate(chunks, axis=-1) << below)
        below, start = below + width, end
    return functools.reduce(jnp.bitwise_or, shares)


@dataclass(frozen=True)
class Int4(_FewBits):
    """16 levels in each group of features: 4.5 bits a number."""

    name, bits = "int4", 4


@dataclass(frozen=True)
class Int3(_FewBits):
    """8 levels in each group of features: 3.5 bits a number."""

    name, bits = "int3", 3


@dataclass(frozen=True)
class Int2(_FewBits):
    """4 levels in each group of features: 2.5 bits a number."""

    name, bits = "int2", 2


FLOAT32, FLOAT16, BFLOAT16, INT8 = Float32(), Float16(), Bfloat16(), Int8()
INT4, INT3, INT2 = Int4(), Int3(), Int2()
WIRES: dict[str, Wire] = {wire.name: wire for wire in (FLOAT32, FLOAT16, BFLOAT16, INT8, INT4, INT3, INT2)}
"""Formats by name. The command line knows all of them."""


def check_names(names: Iterable[str]) -> None:
    """Raises InputError for a name of no wire format."""
    for name in names:
        if name not in WIRES:
            raise InputError(f"unknown wire format {name!r}; known are {', '.join(WIRES)}")
