"""Two ideas on segment means, each an exchange of one's own: what log(count) should weigh, and the class token kept whole.

python -m eval.sweep configs/ideas/sst2_weights.py --out runs/sst2_minilm/ideas --base runs/sst2_minilm/exact
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

import prism_jax as pj
from prism_jax.exchange.segments import segment_means, segment_table
from prism_jax.experiments import recipe as configs


@dataclass(frozen=True)
class WeightedMeans(pj.Segments):
    """Segment means with a weight on log(count), in percent: 0 leaves it out, 100 is PRISM."""

    percent: int

    pool = staticmethod(segment_means)

    def __call__(self, x_BTD, layout):
        context = super().__call__(x_BTD, layout)
        count_BK = context.count_BK
        return context.replace(count_BK=jnp.where(count_BK > 0, count_BK ** (self.percent / 100), 0))


@dataclass(frozen=True)
class FirstTokenAndMeans(pj.Segments):
    """A part's first token as it is (in the first part, the class token) and the means of segments of its other tokens."""

    def segments(self, part_len):
        index_LS, inside_LS = segment_table(part_len - 1, self.num_segments)
        first_1S = np.zeros((1, index_LS.shape[1]), int)  # the first token, and repetitions of it
        inside_1S = np.arange(index_LS.shape[1])[None] == 0
        return np.concatenate([first_1S, index_LS + 1]), np.concatenate([inside_1S, inside_LS])

    pool = staticmethod(segment_means)

    def rows_sent(self, part_len):
        return self.num_segments + 1


config = replace(
    configs.load("configs/sst2_minilm.py"),
    segments=(),
    exchanges=(
        *(WeightedMeans(1, percent) for percent in (0, 50, 75, 100, 125, 150, 200)),
        pj.SegmentMeans(2),
        FirstTokenAndMeans(1),
    ),
)
