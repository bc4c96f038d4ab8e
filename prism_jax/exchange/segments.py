"""PRISM without one of its ideas: what each of them is worth is a row of a sweep."""

import abc
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange, NumSegments
from prism_jax.parallel.partition import part_length
from prism_jax.records import check_value


@dataclass(frozen=True)
class Segments(Exchange):
    """A part sends one row for each of `num_segments` segments of its tokens, which counts for as many as are real; subclasses say what row.

    Segments are cut at fixed places, in sizes that differ by at most one. One without real tokens is hidden.
    """

    num_segments: NumSegments

    def __post_init__(self):
        check_value("num_segments", self.num_segments, NumSegments)

    @abc.abstractmethod
    def pool(self, x_BLSD: jax.Array, real_BLS: jax.Array) -> jax.Array:
        """The rows that are sent [B, L, D], from the tokens of each segment and which of them are real."""

    def segments(self, part_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens of a part belong to which segment, as `segment_table` has it."""
        return segment_table(part_len, self.num_segments)

    def __call__(self, x_BTD, layout):
        self.check(layout.num_tokens, layout.num_parts)
        index_LS, inside_LS = self.segments(layout.part_len)
        real_BLS = layout.real_BT[:, index_LS] & inside_LS[None]
        z_BLD = jnp.where(real_BLS.any(2, keepdims=True), self.pool(x_BTD[:, index_LS], real_BLS), 0)
        count_BPL = (layout.real_BPT[:, :, index_LS] & inside_LS[None, None]).sum(-1)
        last_PL = layout.positions_PT[:, index_LS[:, -1]]
        return self.share(x_BTD, z_BLD, count_BPL, last_PL, layout)

    def rows_sent(self, part_len):
        return self.num_segments

    def check(self, num_tokens, num_parts):
        part_len = part_length(num_tokens, num_parts)
        if self.num_segments > part_len:
            raise InputError(
                f"{self.num_segments} segments asked for, but a part has {part_len} tokens "
                f"({num_tokens} tokens in {num_parts} parts); choose num_segments <= {part_len}"
            )


def segment_means(x_BLSD: jax.Array, real_BLS: jax.Array) -> jax.Array:
    """The means over the real tokens of each segment, [B, L, D]."""
    total_BLD = jnp.where(real_BLS[..., None], x_BLSD, 0).sum(2)
    return total_BLD / jnp.maximum(real_BLS.sum(-1), 1)[..., None].astype(x_BLSD.dtype)


@dataclass(frozen=True)
class SegmentMeans(Segments):
    """A part sends the means of `num_segments` segments of its tokens. PRISM (arXiv 2507.12145)."""

    pool = staticmethod(segment_means)


def segment_table(part_len: int, num_segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens of a part belong to which segment.

    Returns:
      index_LS: int, the tokens of each segment; a short segment repeats its last one.
      inside_LS: bool, False where a token is such a repetition.
    """
    start_L = -(-np.arange(num_segments + 1) * part_len // num_segments)
    size_L = np.diff(start_L)
    offset_S = np.arange(size_L.max())
    index_LS = start_L[:-1, None] + np.minimum(offset_S, size_L[:, None] - 1)
    return index_LS, offset_S < size_L[:, None]


@dataclass(frozen=True)
class UnscaledMeans(Segments):
    """Segment means that count as one token each, whatever they stand for: no log(count) in the softmax."""

    pool = staticmethod(segment_means)

    def __call__(self, x_BTD, layout):
        context = super().__call__(x_BTD, layout)
        return context.replace(count_BK=jnp.minimum(context.count_BK, 1))


@dataclass(frozen=True)
class MeansAfterNorm(Segments):
    """Segment means of the normalised rows, in place of normalised means. In BERT, whose norms come after, both are one."""

    after_norm: ClassVar[bool] = True

    pool = staticmethod(segment_means)
