"""Ideas on means under rotary positions: the place where a mean stands, and the last tokens of a part kept whole.

python -m eval.sweep configs/ideas/smollm2_places.py --out runs/smollm2/places
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from prism_jax.exchange import FirstTokens, KeysValues, UnscaledMeans
from prism_jax.exchange.segments import segment_table
from prism_jax.experiments import recipe as configs
from prism_jax.experiments.recipe import Grid


class AtFirst(UnscaledMeans):
    """A mean stands at its first real token."""

    def places(self, before_BPLS, real_BPLS):
        return jnp.where(real_BPLS, before_BPLS, before_BPLS.max(-1, keepdims=True)).min(-1)


class AtLast(UnscaledMeans):
    """A mean stands at its last real token."""

    def places(self, before_BPLS, real_BPLS):
        return jnp.where(real_BPLS, before_BPLS, 0).max(-1)


@dataclass(frozen=True)
class MeansAndTail(UnscaledMeans):
    """A part sends its last `tail` tokens as they are, and the means of segments of its other tokens."""

    tail: int

    def segments(self, part_len):
        index_LS, inside_LS = segment_table(part_len - self.tail, self.num_segments)
        tail_LS = np.repeat(np.arange(part_len - self.tail, part_len)[:, None], index_LS.shape[1], axis=1)
        first_LS = np.broadcast_to(np.arange(index_LS.shape[1])[None] == 0, tail_LS.shape)
        return np.concatenate([index_LS, tail_LS]), np.concatenate([inside_LS, first_LS])

    def check(self, num_tokens, num_parts):
        super().check(num_tokens - self.tail * num_parts, num_parts)

    def rows_sent(self, part_len):
        return self.num_segments + self.tail


MEANS = (UnscaledMeans(16), AtFirst(16), AtLast(16), MeansAndTail(8, 8), MeansAndTail(1, 15))
config = replace(
    configs.load("configs/smollm2.py"),
    grid=Grid(parts=(2, 4), segments=(), exchanges=tuple(FirstTokens(KeysValues(of), 1) for of in MEANS)),
)
