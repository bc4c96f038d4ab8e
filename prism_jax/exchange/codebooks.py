"""Product quantisation: rows are sent as codes of codebooks that every part holds."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.base import Context, Exchange
from prism_jax.exchange.block_array import BlockArray, array_field
from prism_jax.exchange.principal import Principal, check_rows_of
from prism_jax.exchange.wire import FLOAT32, Wire, pack, unpack
from prism_jax.exchange.wrapped import Wrapped, inner, sender, wire_of, with_wire
from prism_jax.parallel.partition import Layout
from prism_jax.records import Count, check_value


@dataclass(frozen=True, eq=False)
class Codes(Wire):
    """A row is divided into equal groups of features. Each is sent as the index of the nearest centroid of its
    codebook.

    A group with a number that is not finite arrives as some centroid.

    Attributes:
      groups: X, pieces of a row.
      bits: of an index.
      centroids_XJE: J = 2**bits centroids of E = D / X features for each group; None to count bytes only.
    """

    groups: int
    bits: int
    centroids_XJE: jax.Array | None = None

    name = "codes"

    def encode(self, z_BLD: jax.Array) -> jax.Array:
        """Returns the codes, 8 / bits of them in a byte."""
        z_XBLE = jnp.moveaxis(z_BLD.reshape(*z_BLD.shape[:-1], self.groups, -1), 2, 0)
        codes_BLX = jnp.moveaxis(jax.lax.map(_nearest, (z_XBLE, self._centroids())), 0, -1)
        return codes_BLX if self.bits == 8 else jnp.concatenate(pack(codes_BLX, self.bits), axis=-1)

    def decode(self, sent: jax.Array, features: int) -> jax.Array:
        codes = sent if self.bits == 8 else unpack(sent, self.bits)
        group = jnp.broadcast_to(jnp.arange(self.groups), codes.shape)
        z = self._centroids()[group, codes.astype(jnp.int32)]
        return z.reshape(*z.shape[:-2], features)

    def row_bytes(self, features: int) -> int:
        check_groups(self.groups, self.bits, features)
        return self.groups * self.bits // 8

    def _centroids(self) -> jax.Array:
        assert self.centroids_XJE is not None  # `bind` gives them
        return jnp.asarray(self.centroids_XJE)


def _nearest(group: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Returns the index of the nearest centroid, the first of equals, [B, L], uint8, in one group of features.

    One group at a time, since the distances of all groups would leave the cache of a CPU. XLA's argmax is slow there.
    """
    z_BLE, centroids_JE = group
    half_norm_J = (centroids_JE**2).sum(-1) / 2
    closeness_BLJ = z_BLE @ centroids_JE.T - half_norm_J[None, None]
    highest_BL1, last = closeness_BLJ.max(-1, keepdims=True), len(centroids_JE) - 1
    is_highest_BLJ = closeness_BLJ == highest_BL1
    index_BLJ = jnp.where(is_highest_BLJ, jnp.arange(last + 1, dtype=jnp.int32)[None, None], last)
    return index_BLJ.min(-1).astype(jnp.uint8)


def check_groups(groups: int, bits: int, features: int) -> None:
    """Raises InputError if rows of D features don't divide into the groups, or their codes into bytes."""
    if features % groups or groups * bits % 8:
        raise InputError(
            f"{groups} groups of {bits} bits for rows of {features} features; choose groups that divide {features}, "
            "and whose bits fill bytes"
        )


@dataclass(frozen=True)
class Codebooks(Wrapped):
    """Sends the rows of another exchange as codes (ASTRA, arXiv 2505.19342; product quantisation, Jegou et al. 2011).

    Each block has its codebooks, one for each group of features. `train.calibrate` makes them. A row takes
    groups * bits / 8 bytes. The gradient is straight-through, and the codebooks have none.

    Attributes:
      groups: X, pieces of a row; divides the numbers of a row: those that the exchange is called on, or W behind
        `Principal`.
      bits: of a code, 2, 4 or 8.
      centroids: of one block, [X, J, E], see `Codes`.
    """

    groups: Count
    bits: Count
    centroids: jax.Array | None = array_field()

    def __post_init__(self) -> None:
        check_value("groups", self.groups, Count)
        check_value("bits", self.bits, Count)
        if self.bits not in (2, 4, 8):
            raise InputError(f"bits is {self.bits}; choose 2, 4 or 8")
        if sender(self.of) is None or wire_of(self.of) != FLOAT32:
            raise InputError(f"codebooks can't send the rows of {self.of}; choose an exchange that sends float32 rows")
        check_rows_of("codebooks are", self.of)

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        return with_wire(self.of, Codes(self.groups, self.bits, self.centroids))(x_BTD, layout)

    @property
    def own_wire(self) -> Wire:
        return Codes(self.groups, self.bits)

    @property
    def arrays_name(self) -> str:
        basis = inner(self.of, Principal)
        return f"codebooks_{self.groups}_{self.bits}" + (f"_{basis.arrays_name}" if basis else "")

    def arrays(self, features: int) -> dict[str, BlockArray]:
        width = self.coded_width(features)
        check_groups(self.groups, self.bits, width)
        return {"centroids": BlockArray((self.groups, 2**self.bits, width // self.groups))}

    def flops(self, part_len: int, num_parts: int, features: int) -> float:
        rows = self.of.rows_sent(part_len) if num_parts > 1 else 0
        search = 2 * rows * 2**self.bits * self.coded_width(features)
        return search + self.of.flops(part_len, num_parts, features)

    def with_arrays(self, arrays: Mapping[str, jax.Array]) -> Exchange:
        return super().with_arrays({"centroids": jax.lax.stop_gradient(arrays["centroids"])})
