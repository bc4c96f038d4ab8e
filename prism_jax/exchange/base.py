"""The exchanges: what the parts tell each other before a block.

An exchange is a frozen value, called as `exchange(x_BTD, layout) -> Context`. The context holds the rows that this part
attends to and two numbers for each row, `count` and `last`, from which attention derives every mask it needs. Both are
known on every part, so only features cross the mesh. The collectives of the blocks stand in this file.
"""

import abc
import re
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, ClassVar, get_type_hints

import flax
import jax
import jax.numpy as jnp
from msgspec import Meta

from prism_jax.errors import InputError
from prism_jax.exchange.wire import FLOAT32, Wire
from prism_jax.parallel.partition import PARTS, Layout, check_parts


@flax.struct.dataclass
class Context:
    """The rows a part attends to.

    Attributes:
      x_BKD: features.
      count_BK: float32, how many real tokens a row stands for, or another weight above 0; 0 hides the row.
      last_K: int32, position in the whole sequence of the last token that a row stands for.
    """

    x_BKD: jax.Array
    count_BK: jax.Array
    last_K: jax.Array


@dataclass(frozen=True)
class Exchange(abc.ABC):
    """What the parts exchange before a block. Subclasses are final, frozen dataclasses; see the README for an example.

    Attributes:
      wire: how the rows that are sent are written as bytes.
      after_norm: whether it is called on what the norm before attention gave, in models that have one there (pre-norm), in
        place of the residual stream. What it sends is then not normalised again.
    """

    wire: Wire = field(default=FLOAT32, kw_only=True)
    after_norm: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        """The rows that this part attends to. Called on every part at once; may use collectives over `PARTS`."""

    @abc.abstractmethod
    def rows_sent(self, part_len: int) -> int:
        """L, the rows that a part sends to each other part; a part then attends to T + (P-1) L rows."""

    def check(self, num_tokens: int, num_parts: int) -> None:
        """Raises InputError, with the way out, if this exchange can't run on N tokens in P parts."""

    def share(
        self, x_BTD: jax.Array, z_BLD: jax.Array, count_BPL: jax.Array, last_PL: jax.Array, layout: Layout
    ) -> Context:
        """Sends `z` to every other part. The context: own rows first, then the others' `z` in cyclic order. One all-gather.

        Args:
          x_BTD: this part's own rows.
          z_BLD: what this part sends.
          count_BPL: how many real tokens each row of every part's `z` stands for.
          last_PL: position of the last token that each row of every part's `z` stands for.
          layout: where this part stands.

        Raises:
          InputError: if counts or positions are not those of every part's `z`.
        """
        P, (B, L, _) = layout.num_parts, z_BLD.shape
        if (count_BPL.shape, last_PL.shape) != ((B, P, L), (P, L)):
            raise InputError(
                f"{name_of(type(self))} shares counts of shape {count_BPL.shape} and last positions of shape {last_PL.shape}, "
                f"but those of every part are {(B, P, L)} and {(P, L)}; take them from layout.real_BPT and layout.positions_PT"
            )
        own, others = own_rows(x_BTD, layout), P - 1
        if others == 0:
            return own
        part_after_part = (layout.part + 1 + jnp.arange(others, dtype=jnp.int32)) % P

        def from_others(y, axis):
            """Keeps the other parts of an axis of parts, and joins it with the axis of rows behind it."""
            y = jnp.take(y, part_after_part, axis, mode="clip")
            return y.reshape(*y.shape[:axis], -1, *y.shape[axis + 2 :])

        z_BPLD = all_gather(z_BLD, self.wire)
        return Context(
            jnp.concatenate([x_BTD, from_others(z_BPLD, 1)], axis=1),
            jnp.concatenate([own.count_BK, from_others(count_BPL, 1).astype(jnp.float32)], axis=1),
            jnp.concatenate([own.last_K, from_others(last_PL, 0)]),
        )

    def __str__(self) -> str:
        return _name_and_numbers(self) + (f":{self.wire.name}" if self.wire != FLOAT32 else "")


@dataclass(frozen=True)
class Wrapped(Exchange):
    """An exchange that changes the context of another one; subclasses say how. It sends what that one sends, where that one does.

    Attributes:
      of: the other one.
      wire: that of the other one.
    """

    of: Exchange
    wire: Wire = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wire", self.of.wire)

    @property
    def after_norm(self) -> bool:  # type: ignore[override]
        return self.of.after_norm

    def rows_sent(self, part_len):
        return self.of.rows_sent(part_len)

    def check(self, num_tokens, num_parts):
        self.of.check(num_tokens, num_parts)

    def __str__(self) -> str:
        return f"{_name_and_numbers(self)}:{self.of}"


def own_rows(x_BTD: jax.Array, layout: Layout) -> Context:
    """The context of a part that attends to itself only."""
    return Context(x_BTD, layout.real_BT.astype(jnp.float32), layout.positions_T)


def all_gather(z_BLD: jax.Array, wire: Wire) -> jax.Array:
    """Every part's rows as they arrive, [B, P, L, D]: one collective.

    Rounding has no gradient, so the gradient is that of sending float32 (straight-through, arXiv 1308.3432).
    """

    def gather(sent):
        return jax.lax.all_gather(sent, PARTS, axis=1)

    if wire == FLOAT32:
        return gather(z_BLD)
    arrived_BPLD = wire.decode(gather(wire.encode(jax.lax.stop_gradient(z_BLD))))
    return _straight_through(arrived_BPLD, gather(z_BLD))


@jax.custom_jvp
def _straight_through(rounded: jax.Array, exact: jax.Array) -> jax.Array:
    """`rounded`, with the gradient of `exact`, whose values nobody reads: the compiler leaves them out.

    No collective stands inside, since the names of axes are unknown where JAX differentiates a compiled function.
    """
    return rounded


@_straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return primals[0], tangents[1]


NumSegments = Annotated[int, Meta(ge=1, description="1 or more, or isolated_parts to send nothing")]


Exchanges = Exchange | tuple[Exchange, ...]
"""One exchange for all blocks, or a tuple with one for each."""


def check(exchange: Exchanges, num_tokens: int, num_parts: int) -> None:
    """Raises InputError if an exchange, or one of several, can't run on N tokens in P parts."""
    check_parts(num_parts, num_tokens)
    for one in as_tuple(exchange):
        one.check(num_tokens, num_parts)


def as_tuple(exchange: Exchanges) -> tuple[Exchange, ...]:
    """As a tuple, one or several."""
    return (exchange,) if isinstance(exchange, Exchange) else exchange


def per_block(exchange: Exchanges, num_layers: int) -> tuple[Exchange, ...]:
    """One exchange for each block, from one for all or a tuple with one for each."""
    if isinstance(exchange, Exchange):
        return (exchange,) * num_layers
    if len(exchange) != num_layers:
        raise InputError(f"{len(exchange)} exchanges given for {num_layers} blocks; give one, or {num_layers}")
    return tuple(exchange)


def name_of(kind: type[Exchange]) -> str:
    """The name of an exchange on the command line and in results: `SegmentMeans` is `segment_means`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def numbers(kind: type[Exchange]) -> dict[str, type]:
    """The fields of an exchange that stand in its text, with their types."""
    types = get_type_hints(kind)
    return {one.name: types[one.name] for one in fields(kind) if one.name not in ("wire", "of")}


def _name_and_numbers(exchange: Exchange) -> str:
    kind = type(exchange)
    return ":".join([name_of(kind), *(str(getattr(exchange, number)) for number in numbers(kind))])


def with_wire(exchange: Exchange, wire: Wire) -> Exchange:
    """The exchange with another wire format.

    Raises:
      InputError: if it sends nothing.
    """
    if wire != exchange.wire and not sends(exchange):
        raise InputError(f"{exchange} sends nothing, so it takes no wire format")
    if isinstance(exchange, Wrapped):
        return replace(exchange, of=with_wire(exchange.of, wire))
    return replace(exchange, wire=wire)


def sends(exchange: Exchange) -> bool:
    """Whether anything is sent, of parts that are long enough."""
    return exchange.rows_sent(1 << 20) > 0
