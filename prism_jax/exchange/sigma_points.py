"""Sigma points: two rows for each segment, which keep its spread."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from prism_jax.exchange.base import Context
from prism_jax.exchange.segments import SegmentMeans
from prism_jax.parallel.partition import Layout


@dataclass(frozen=True)
class SigmaPoints(SegmentMeans):
    """A part sends the mean of each segment plus and minus its principal deviation, each with half of its count.

    The two rows have the mean of the segment's tokens, and their variance along the direction in which it is largest.
    Attention then gives the segment its weight to second order in that direction, where a mean gives too little
    (Jensen). The name is that of the unscented transform (Julier and Uhlmann 1997). A segment takes two rows, so L
    segments send as much as 2 L means.
    """

    def segments(self, part_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the segments twice, once for each of their rows."""
        index_LS, inside_LS = super().segments(part_len)
        return np.concatenate([index_LS, index_LS]), np.concatenate([inside_LS, inside_LS])

    def pool(self, x_BLSD: jax.Array, real_BLS: jax.Array) -> jax.Array:
        mean, deviation = self._moments(x_BLSD[:, : self.num_segments], real_BLS[:, : self.num_segments])
        return jnp.concatenate([mean + deviation, mean - deviation], axis=1)

    def _moments(self, x_BLSD: jax.Array, real_BLS: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the mean of each segment, and its principal deviation."""
        mean_BLD = super().pool(x_BLSD, real_BLS)
        off_BLSD = jnp.where(real_BLS[..., None], x_BLSD - mean_BLD[:, :, None], 0)
        return mean_BLD, principal_deviation(off_BLSD, real_BLS)

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        context = super().__call__(x_BTD, layout)
        return replace(context, weight_BK=context.weight_BK.at[:, layout.part_len :].divide(2))

    def rows_sent(self, part_len: int) -> int:
        return 2 * self.num_segments


def principal_deviation(off_BLSD: jax.Array, real_BLS: jax.Array) -> jax.Array:
    """Returns the standard deviation of each segment along its principal direction, as a vector, [B, L, D].

    The direction has no gradient, the deviation along it has.

    Args:
      off_BLSD: tokens of each segment less its mean, 0 where a place does not count.
      real_BLS: see `Segments.pool`.
    """
    direction_BLD = principal_direction(off_BLSD)
    along_BLS = (off_BLSD * direction_BLD[:, :, None]).sum(-1)
    count_BL1 = jnp.maximum(real_BLS.sum(-1, keepdims=True), 1).astype(off_BLSD.dtype)
    # sqrt(mean(along^2)) as sum(share * along): the square root has no gradient where all tokens are equal.
    share_BLS = _unit(jax.lax.stop_gradient(along_BLS)) / jnp.sqrt(count_BL1)
    return direction_BLD * (share_BLS * along_BLS).sum(-1, keepdims=True)


def principal_direction(off_BLSD: jax.Array) -> jax.Array:
    """Returns the direction of the largest variance of each segment, a unit vector [B, L, D]; 0 where all is 0.

    It comes from two power iterations that start at the token farthest from the mean, and has no gradient.

    Args:
      off_BLSD: see `principal_deviation`.
    """
    off_BLSD = jax.lax.stop_gradient(off_BLSD)
    farthest_BL11 = jnp.argmax((off_BLSD**2).sum(-1), axis=-1)[..., None, None]
    direction_BLD = jnp.take_along_axis(off_BLSD, farthest_BL11, axis=2, mode="clip")[:, :, 0]
    for _ in range(2):
        along_BLS = (off_BLSD * direction_BLD[:, :, None]).sum(-1)
        direction_BLD = _unit((off_BLSD * along_BLS[..., None]).sum(2))
    return direction_BLD


def _unit(x: jax.Array) -> jax.Array:
    """Returns vectors of length 1 along the last axis; 0 for 0."""
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(length > 0, length, 1)
