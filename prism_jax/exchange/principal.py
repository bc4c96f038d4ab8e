"""Rows in a basis of principal components (transform coding)."""

from dataclasses import dataclass

import jax

from prism_jax.errors import InputError
from prism_jax.exchange.base import Context, Exchange
from prism_jax.exchange.block_array import BlockArray, array_field
from prism_jax.exchange.changes import Changes
from prism_jax.exchange.wire import Wire
from prism_jax.exchange.wrapped import Wrapped, has_own_wire, inner, sender, wire_of, with_wire
from prism_jax.parallel.partition import Layout
from prism_jax.records import Count, check_value


@dataclass(frozen=True, eq=False)
class Projected(Wire):
    """Another format, for the coordinates of rows in a basis.

    Attributes:
      of: the other format.
      mean_D: the origin.
      basis_DW: W orthonormal columns.
    """

    of: Wire
    mean_D: jax.Array
    basis_DW: jax.Array

    name = "projected"

    def encode(self, z_BLD: jax.Array) -> jax.Array:
        return self.of.encode((z_BLD - self._origin(z_BLD)) @ self.basis_DW)

    def decode(self, sent: jax.Array, features: int) -> jax.Array:
        z = self.of.decode(sent, self.basis_DW.shape[1]) @ self.basis_DW.T
        return z + self._origin(z)

    def row_bytes(self, features: int) -> int:
        return self.of.row_bytes(self.basis_DW.shape[1])

    def _origin(self, z: jax.Array) -> jax.Array:
        return self.mean_D.reshape((1,) * (z.ndim - 1) + self.mean_D.shape)


def check_rows_of(arrays_are: str, of: Exchange) -> None:
    """Raises InputError if no arrays can be made of the rows that an exchange sends.

    Args:
      arrays_are: name of the arrays, with its verb: "a basis is", "codebooks are".
      of: the exchange.
    """
    if inner(of, Changes):
        raise InputError(f"{arrays_are} made of rows, but {of} sends their changes; leave changes out")
    if of.after_norm:
        raise InputError(
            f"{arrays_are} made of rows before the norm, but {of} sends rows behind it; "
            "choose an exchange that sends rows before the norm"
        )


@dataclass(frozen=True)
class Principal(Wrapped):
    """Sends the coordinates of another exchange's rows in their first principal components, in its wire format.

    Each block has its basis, of the rows that the block reads on one device; `train.calibrate` makes it. It is made for
    codebooks in front, `codebooks:48:8:principal:192:all_gather`, after the parametric form of optimized product
    quantization (Ge et al. 2013): a large component stands beside a small one. KVTC (arXiv 2511.01815) codes keys and
    values in a basis of principal components.

    Attributes:
      rank: W, components that are kept.
      mean, basis: of one block, [D] and [D, W], see `Projected`.
    """

    rank: Count
    mean: jax.Array | None = array_field()
    basis: jax.Array | None = array_field()

    def __post_init__(self) -> None:
        check_value("rank", self.rank, Count)
        if sender(self.of) is None:
            raise InputError(f"{self.of} sends nothing, so there is nothing to project; choose one that sends rows")
        check_rows_of("a basis is", self.of)
        if inner(self.of, Principal):
            raise InputError(f"{self.of} projects its rows already; leave one principal out")
        if has_own_wire(self.of):
            raise InputError(
                f"principal:{self.rank}:{self.of} has codebooks behind the basis; put them in front, as in "
                "codebooks:48:8:principal:192:all_gather"
            )

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        assert self.mean is not None  # `bind` gives them
        assert self.basis is not None
        projected = Projected(wire_of(self.of), jax.lax.stop_gradient(self.mean), jax.lax.stop_gradient(self.basis))
        return with_wire(self.of, projected)(x_BTD, layout)

    @property
    def arrays_name(self) -> str:
        return f"principal_{self.rank}"

    def arrays(self, features: int) -> dict[str, BlockArray]:
        if self.rank > features:
            raise InputError(f"{self.rank} components of {features} features; choose a rank of at most {features}")
        return {"mean": BlockArray((features,)), "basis": BlockArray((features, self.rank))}

    def coded_width(self, features: int) -> int:
        return self.rank

    def flops(self, part_len: int, num_parts: int, features: int) -> float:
        rows = num_parts * self.of.rows_sent(part_len) if num_parts > 1 else 0
        return 2 * rows * features * self.rank + self.of.flops(part_len, num_parts, features)
