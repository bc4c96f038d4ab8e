"""The first tokens of a text, whole on every part."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.base import Context, all_gather
from prism_jax.exchange.changes import Changes
from prism_jax.exchange.wire import FLOAT32
from prism_jax.exchange.wrapped import Wrapped, inner
from prism_jax.parallel.partition import Layout
from prism_jax.records import Count, check_value


@dataclass(frozen=True)
class FirstTokens(Wrapped):
    """Gives every part the first real tokens of the sequence in float32, beside the rows of another exchange.

    Causal language models put much of their attention on the first token, and fail without it (attention sinks,
    StreamingLLM, arXiv 2309.17453). The rows of the other exchange stand for the other tokens only. It adds one
    collective to each block.

    Attributes:
      num_first: S, tokens that are kept whole.
    """

    num_first: Count

    def __post_init__(self) -> None:
        check_value("num_first", self.num_first, Count)
        if inner(self.of, FirstTokens):
            raise InputError(f"{self.of} keeps first tokens already; leave one first_tokens out")
        if inner(self.of, Changes):
            raise InputError(f"{self.of} sends every row, those of the first tokens too; leave first_tokens out")
        if self.of.remembers:
            raise InputError(
                f"first_tokens:{self.num_first}:{self.of} wraps an exchange with a memory; put first tokens "
                "inside, as in displaced:first_tokens:1:all_gather"
            )

    @property
    def first_rows(self) -> int:
        return self.num_first

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        if layout.num_parts == 1:
            return self.of(x_BTD, layout)
        before_BN = layout.real_before_BN
        is_first_BN = layout.real_BN & (before_BN < self.num_first)
        context = self.of(x_BTD, replace(layout, real_BN=layout.real_BN & ~is_first_BN))
        place_BK = layout.places(context.last_K) if context.place_BK is None else context.place_BK + self.num_first
        first_I = jnp.arange(self.num_first, dtype=jnp.int32)
        is_BIN = is_first_BN[:, None] & (before_BN[:, None] == first_I[None, :, None])
        position_BI = jnp.argmax(is_BIN, axis=2).astype(jnp.int32)
        last_BK = jnp.broadcast_to(context.last_K, context.weight_BK.shape)
        place_BI = jnp.broadcast_to(first_I[None], position_BI.shape)
        return Context(
            jnp.concatenate([context.x_BKD, self._rows(x_BTD, position_BI, layout)], axis=1),
            jnp.concatenate([context.weight_BK, is_BIN.any(2).astype(jnp.float32)], axis=1),
            jnp.concatenate([last_BK, position_BI], axis=1),
            jnp.concatenate([place_BK.astype(jnp.float32), place_BI.astype(jnp.float32)], axis=1),
        )

    def _rows(self, x_BTD: jax.Array, position_BI: jax.Array, layout: Layout) -> jax.Array:
        """Returns the rows at given positions of the sequence, [B, S, D]. Each comes from the part that has it."""
        own_BI = jnp.clip(position_BI - layout.part * layout.part_len, 0, layout.part_len - 1)
        own_BID = jnp.take_along_axis(x_BTD, own_BI[..., None], axis=1, mode="clip")
        owner_BI = position_BI // layout.part_len
        all_BPID = all_gather(own_BID, FLOAT32)
        return jnp.take_along_axis(all_BPID, owner_BI[:, None, :, None], axis=1, mode="clip")[:, 0]
