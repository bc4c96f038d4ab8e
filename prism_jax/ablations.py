"""PRISM without one of its ideas: what each of them is worth is a row of a sweep."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from prism_jax.exchange import Exchange, SegmentMeans
from prism_jax.wire import Wire


class _LikeSegmentMeans:
    """What both have in common with segment means."""

    num_segments: int
    wire: Wire

    def __post_init__(self):
        self.means()

    def means(self) -> SegmentMeans:
        return SegmentMeans(self.num_segments, wire=self.wire)

    def rows_sent(self, part_len):
        return self.num_segments

    def check(self, num_tokens, num_parts):
        self.means().check(num_tokens, num_parts)


@dataclass(frozen=True)
class UnscaledMeans(_LikeSegmentMeans, Exchange):
    """Segment means that count as one token each, whatever they stand for: no log(count) in the softmax."""

    num_segments: int

    def __call__(self, x_BTD, layout):
        context = self.means()(x_BTD, layout)
        return context.replace(count_BK=jnp.minimum(context.count_BK, 1))


@dataclass(frozen=True)
class MeansAfterNorm(_LikeSegmentMeans, Exchange):
    """Segment means of the normalised rows, in place of normalised means. In BERT, whose norms come after, both are one."""

    num_segments: int
    after_norm: ClassVar[bool] = True

    def __call__(self, x_BTD, layout):
        return self.means()(x_BTD, layout)
