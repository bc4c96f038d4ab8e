"""PRISM without one of its ideas: what each of them is worth is a row of a sweep."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from prism_jax.exchange import Segments, segment_means


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
