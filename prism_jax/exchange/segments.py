"""Segment means (PRISM), and variants that change one of its ideas, for comparison."""

import abc
from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Meta

from prism_jax.errors import InputError
from prism_jax.exchange.base import Context, Sending
from prism_jax.parallel.partition import Layout, part_length
from prism_jax.records import NotNegative, check_value

NumSegments = Annotated[int, Meta(ge=1, description="1 or more, or isolated_parts to send nothing")]


@dataclass(frozen=True)
class Segments(Sending):
    """A part sends one row for each of `num_segments` segments of its tokens; subclasses pool a segment into its row.

    Segments are cut at fixed places, in sizes that differ by at most one. The row weight of a row is its count,
    the number of real tokens of its segment. A segment without real tokens is hidden.

    Attributes:
      num_segments: L, segments of a part, 1 or more.
    """

    num_segments: NumSegments

    def __post_init__(self) -> None:
        check_value("num_segments", self.num_segments, NumSegments)

    @abc.abstractmethod
    def pool(self, x_BLSD: jax.Array, real_BLS: jax.Array) -> jax.Array:
        """Returns the rows to send, [B, L, D].

        Args:
          x_BLSD: tokens of each segment. A segment shorter than S repeats its last token.
          real_BLS: True where a token counts, False for padding and repetitions.
        """

    def segments(self, part_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of a part in each segment, in the form of `segment_table`."""
        return segment_table(part_len, self.num_segments)

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        self.check(layout.num_tokens, layout.num_parts)
        index_LS, inside_LS = self.segments(layout.part_len)
        real_BLS = layout.real_BT[:, index_LS] & inside_LS[None]
        z_BLD = jnp.where(real_BLS.any(2, keepdims=True), self.pool(x_BTD[:, index_LS], real_BLS), 0)
        count_BPL = (layout.real_BPT[:, :, index_LS] & inside_LS[None, None]).sum(-1)
        last_PL = layout.positions_PT[:, index_LS[:, -1]]
        before_BPLS = layout.real_before_BN.reshape(layout.real_BPT.shape)[:, :, index_LS]
        place_BPL = self.places(before_BPLS, layout.real_BPT[:, :, index_LS] & inside_LS[None, None])
        return self.share(x_BTD, z_BLD, count_BPL, last_PL, layout, place_BPL)

    def places(self, before_BPLS: jax.Array, real_BPLS: jax.Array) -> jax.Array:
        """Returns the places of the rows in their texts, [B, P, L], see `Context`: the mean of the tokens' places.

        The paper has no model with rotary positions, so this is ours.

        Args:
          before_BPLS: places of the tokens of each segment of each part.
          real_BPLS: as in `pool`.
        """
        total_BPL = jnp.where(real_BPLS, before_BPLS, 0).sum(-1).astype(jnp.float32)
        return total_BPL / jnp.maximum(real_BPLS.sum(-1), 1).astype(jnp.float32)

    def rows_sent(self, part_len: int) -> int:
        return self.num_segments

    def padded_tokens(self, part_len: int) -> int:
        """Returns the tokens that `pool` reads, L times S: those of the segments, all as long as the longest one."""
        return self.segments(part_len)[0].size

    def check(self, num_tokens: int, num_parts: int) -> None:
        part_len = part_length(num_tokens, num_parts)
        if self.num_segments > part_len:
            raise InputError(
                f"{self.num_segments} segments asked for, but a part has {part_len} tokens "
                f"({num_tokens} tokens in {num_parts} parts); choose num_segments <= {part_len}"
            )


def segment_table(part_len: int, num_segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a part of T tokens into L segments.

    Returns:
      index_LS: int, tokens of each segment; a short segment repeats its last one.
      inside_LS: bool, False where a token is a repetition.
    """
    bounds = -(-np.arange(num_segments + 1) * part_len // num_segments)
    start_L, size_L = bounds[:-1], np.diff(bounds)
    offset_S = np.arange(size_L.max())
    index_LS = start_L[:, None] + np.minimum(offset_S, size_L[:, None] - 1)
    return index_LS, offset_S < size_L[:, None]


@dataclass(frozen=True)
class SegmentMeans(Segments):
    """PRISM (arXiv 2507.12145): a part sends the mean of each segment, over its real tokens."""

    def pool(self, x_BLSD: jax.Array, real_BLS: jax.Array) -> jax.Array:
        total_BLD = jnp.where(real_BLS[..., None], x_BLSD, 0).sum(2)
        return total_BLD / jnp.maximum(real_BLS.sum(-1), 1)[..., None].astype(x_BLSD.dtype)


@dataclass(frozen=True)
class WeightedMeans(SegmentMeans):
    """Segment means with another row weight: that of a mean of g tokens is g ** exponent.

    Attributes:
      exponent: factor of log(g) in the attention logits. 0 leaves log(g) out, 1 is PRISM.
    """

    exponent: NotNegative

    def __post_init__(self) -> None:
        super().__post_init__()
        check_value("exponent", self.exponent, NotNegative)

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        context = super().__call__(x_BTD, layout)
        count_BK = context.weight_BK
        return replace(context, weight_BK=jnp.where(count_BK > 0, count_BK ** float(self.exponent), 0))


@dataclass(frozen=True)
class UnscaledMeans(SegmentMeans):
    """Segment means of row weight 1: the softmax leaves out log(g)."""

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        context = super().__call__(x_BTD, layout)
        return replace(context, weight_BK=jnp.minimum(context.weight_BK, 1))


@dataclass(frozen=True)
class MeansAfterNorm(SegmentMeans):
    """Means of normalised rows, in place of normalised means. The same in BERT, whose norms come after attention."""

    after_norm = True
