"""Exchanges: the rows that the parts send each other before a block.

An exchange is a frozen value, called as `exchange(x_BTD, layout) -> Context`. The context holds the rows that this part
attends to. Each row has a row weight and a last position, from which attention derives every mask that it needs. Both
are known on every part, so only features cross the mesh. The collectives of the blocks stand in this file.
"""

import abc
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_type_hints

import flax
import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.block_array import BlockArray
from prism_jax.exchange.wire import FLOAT32, Wire
from prism_jax.parallel.partition import PARTS, Layout, check_parts


@flax.struct.dataclass
class Context:
    """The rows that a part attends to.

    Attributes:
      x_BKD: features.
      weight_BK: float32, the row weight: a factor of the row in the softmax. PRISM takes the row's count, the number of
        real tokens that it stands for. Any other number above 0 may be chosen. 0 hides the row.
      last_K: int32, position in the whole sequence of the last token that a row stands for. [B, K] where it differs
        between texts.
      place_BK: float32, place of a row in its text. A token's is the number of real tokens before it; a row between two
        tokens may stand between theirs. Models with rotary positions turn the row's key by it. None for the places of
        `last_K`.
      memory: value of `layout.memory` for the same exchange in the next block. None for most.
    """

    x_BKD: jax.Array
    weight_BK: jax.Array
    last_K: jax.Array
    place_BK: jax.Array | None = None
    memory: Any = None


@dataclass(frozen=True)
class Exchange(abc.ABC):
    """Decides the rows that a part attends to in a block. One that sends rows extends `Sending`.

    Subclasses are frozen dataclasses. Their numbers are fields, see `parameters`.
    """

    @abc.abstractmethod
    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        """Returns the rows that this part attends to. Called on every part at once.

        Args:
          x_BTD: rows of this part.
          layout: boundaries of the parts, index of this part, real tokens and positions.
        """

    @property
    def after_norm(self) -> bool:
        """Whether x_BTD is the output of the norm before attention, in pre-norm models. Otherwise it is the residual
        stream, and the receiver normalises the rows. Subclasses may write `after_norm = True`."""
        return False

    @property
    def keys_values(self) -> bool:
        """Whether x_BTD is keys and values side by side, [B, T, 2 G F], see `KeysValues`.
        The context then holds keys and values too."""
        return False

    @property
    def remembers(self) -> bool:
        """Whether a part may read rows that were sent before an earlier block, see `Remembering`."""
        return False

    def read_after(self, block: int, num_blocks: int) -> int | None:
        """Number of blocks between the sending of rows before this block and their first read: 0 if this block reads
        them; None if no block does (then they are not sent)."""
        return 0

    def coded_width(self, features: int) -> int:
        """Numbers in a row as the wire format gets it, for rows of `features` numbers in the exchange."""
        return features

    def flops(self, part_len: int, num_parts: int, features: int) -> float:
        """FLOPs of the matrix products that a part computes in the exchange itself, for one example.

        Args:
          part_len: T.
          num_parts: P.
          features: numbers in a row that the exchange is called on, see `TransformerConfig.width_of`.
        """
        return 0

    def rows_sent(self, part_len: int) -> int:
        """Number of rows, L, that a part of T tokens sends to each other part."""
        return 0

    @property
    def first_rows(self) -> int:
        """First tokens of the sequence, I, that every part gets whole, in float32, beside the rows of `rows_sent`."""
        return 0

    def rows_received(self, part_len: int, num_parts: int) -> int:
        """Number of rows that a part attends to beside its own T."""
        return (num_parts - 1) * self.rows_sent(part_len) + (self.first_rows if num_parts > 1 else 0)

    def check(self, num_tokens: int, num_parts: int) -> None:
        """Raises InputError, with the way out, if this exchange can't run on N tokens in P parts."""

    @property
    def arrays_name(self) -> str:
        """Name of the exchange's own arrays in a tree of parameters, see `exchange.arrays`."""
        return name_of(type(self))

    def arrays(self, features: int) -> dict[str, BlockArray]:
        """Returns the arrays that the exchange needs in a block, by the name of their `array_field`. Most need none.

        Args:
          features: numbers in a row that the exchange is called on, see `TransformerConfig.width_of`.
        """
        return {}

    def with_arrays(self, arrays: Mapping[str, jax.Array]) -> "Exchange":
        """Returns the exchange with the arrays of a block."""
        return replace(self, **arrays)  # type: ignore[arg-type]

    @classmethod
    def parameters(cls) -> dict[str, type]:
        """Fields that stand in the text of an exchange, in their order, with their types."""
        types = get_type_hints(cls)
        return {field.name: types[field.name] for field in fields(cls) if field.compare}

    def __str__(self) -> str:
        values = (getattr(self, name) for name in self.parameters())
        # 2 and 2.0 are equal, so they read the same.
        return ":".join([name_of(type(self)), *(str(value).removesuffix(".0") for value in values)])


@dataclass(frozen=True)
class Sending(Exchange):
    """An exchange that sends rows to the other parts.

    Attributes:
      wire: format of the rows while they travel.
    """

    wire: Wire = field(default=FLOAT32, kw_only=True)

    @abc.abstractmethod
    def rows_sent(self, part_len: int) -> int:
        """Number of rows, L, that a part of T tokens sends to each other part."""

    def share(
        self,
        x_BTD: jax.Array,
        z_BLD: jax.Array,
        weight_BPL: jax.Array,
        last_PL: jax.Array,
        layout: Layout,
        place_BPL: jax.Array | None = None,
    ) -> Context:
        """Sends `z` to every other part, with one all-gather.

        Args:
          x_BTD: rows of this part.
          z_BLD: rows to send.
          weight_BPL: row weights of the rows that every part sends, see `Context`.
          last_PL: positions of the last token that each of these rows stands for.
          layout: where this part stands.
          place_BPL: places of these rows, see `Context`. None for those of `last_PL`.

        Returns:
          Own rows first, then the rows of the other parts in cyclic order.

        Raises:
          InputError: if row weights or positions are not those of every part.
        """
        P, (B, L, _) = layout.num_parts, z_BLD.shape
        if (weight_BPL.shape, last_PL.shape) != ((B, P, L), (P, L)):
            raise InputError(
                f"{name_of(type(self))} shares row weights of shape {weight_BPL.shape} and last positions of shape "
                f"{last_PL.shape}, but those of every part are {(B, P, L)} and {(P, L)}; "
                "take them from layout.real_BPT and layout.positions_PT"
            )
        own, others = own_rows(x_BTD, layout), P - 1
        if others == 0:
            return own
        part_after_part = (layout.part + 1 + jnp.arange(others, dtype=jnp.int32)) % P

        def from_others(y: jax.Array, axis: int) -> jax.Array:
            """Keeps the other parts of an axis of parts."""
            return jnp.take(y, part_after_part, axis, mode="clip")

        z_BQLD = all_gather(z_BLD, self.wire, lambda sent: from_others(sent, 1))
        weight_BQL, last_QL = from_others(weight_BPL, 1).astype(jnp.float32), from_others(last_PL, 0)
        last_K, place_BK = jnp.concatenate([own.last_K, last_QL.reshape(-1)]), None
        if place_BPL is not None:
            place_BQL = from_others(place_BPL, 1).astype(jnp.float32)
            place_BK = jnp.concatenate([layout.real_before_BT, place_BQL.reshape(B, -1)], axis=1)
        return Context(
            jnp.concatenate([x_BTD, z_BQLD.reshape(B, -1, x_BTD.shape[2])], axis=1),
            jnp.concatenate([own.weight_BK, weight_BQL.reshape(B, -1)], axis=1),
            last_K,
            place_BK,
        )

    @classmethod
    def parameters(cls) -> dict[str, type]:
        return {name: kind for name, kind in super().parameters().items() if name != "wire"}

    def __str__(self) -> str:
        return super().__str__() + (f":{self.wire.name}" if self.wire != FLOAT32 else "")


def own_rows(x_BTD: jax.Array, layout: Layout) -> Context:
    """Returns the context of a part that attends to itself only."""
    return Context(x_BTD, layout.real_BT.astype(jnp.float32), layout.positions_T)


def all_gather(z_BLD: jax.Array, wire: Wire, keep: Callable[[jax.Array], jax.Array] = lambda sent: sent) -> jax.Array:
    """Returns the rows of every part as they arrive, [B, P, L, D]. One collective.

    Rounding has no gradient, so the gradient is that of sending float32 (straight-through, arXiv 1308.3432).

    Args:
      z_BLD: rows to send.
      wire: their format.
      keep: picks parts, from an array [B, P, L, ...] of what all of them sent. Only those are decoded.
    """

    def gather(sent: jax.Array) -> jax.Array:
        return keep(jax.lax.all_gather(sent, PARTS, axis=1))

    if wire == FLOAT32:
        return gather(z_BLD)
    arrived_BPLD = wire.decode(gather(wire.encode(jax.lax.stop_gradient(z_BLD))), z_BLD.shape[-1])
    return _straight_through(arrived_BPLD, gather(z_BLD))


@jax.custom_jvp
def _straight_through(rounded: jax.Array, exact: jax.Array) -> jax.Array:
    """Returns `rounded`, with the gradient of `exact`. The values of `exact` are not read, so the compiler drops them.

    No collective stands inside: the names of axes are unknown where JAX differentiates a compiled function.
    """
    return rounded


@_straight_through.defjvp
def _straight_through_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[1]


Exchanges = Exchange | tuple[Exchange, ...]
"""One exchange for all blocks, or a tuple with one for each."""


def check(exchange: Exchanges, num_tokens: int, num_parts: int) -> None:
    """Raises InputError if an exchange, or one of several, can't run on N tokens in P parts."""
    check_parts(num_parts, num_tokens)
    exchanges = as_tuple(exchange)
    for block_exchange in exchanges:
        block_exchange.check(num_tokens, num_parts)
        if block_exchange.remembers and exchanges != (block_exchange,) * len(exchanges):
            raise InputError(f"{block_exchange} needs the rows of an earlier block; give it alone, for all blocks")


def as_tuple(exchange: Exchanges) -> tuple[Exchange, ...]:
    """Returns a tuple, from one exchange or several."""
    return (exchange,) if isinstance(exchange, Exchange) else exchange


def per_block(exchange: Exchanges, num_layers: int) -> tuple[Exchange, ...]:
    """Returns one exchange for each block, from one for all or a tuple with one for each."""
    if isinstance(exchange, Exchange):
        return (exchange,) * num_layers
    if len(exchange) != num_layers:
        raise InputError(f"{len(exchange)} exchanges given for {num_layers} blocks; give one, or {num_layers}")
    return tuple(exchange)


def name_of(kind: type[Exchange]) -> str:
    """Name of an exchange on the command line and in results: `SegmentMeans` is `segment_means`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
