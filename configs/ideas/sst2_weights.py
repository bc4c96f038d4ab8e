"""Two ideas on segment means: a factor of log(count), and the class token kept whole.

python -m eval.sweep configs/ideas/sst2_weights.py --out runs/sst2_minilm/ideas --base runs/sst2_minilm/exact
"""

from dataclasses import dataclass, replace

import numpy as np

import prism_jax as pj
from prism_jax.exchange.segments import WeightedMeans, segment_table
from prism_jax.experiments import recipe as configs
from prism_jax.experiments.recipe import Grid


@dataclass(frozen=True)
class FirstTokenAndMeans(pj.SegmentMeans):
    """A part sends its first token (in the first part,
    the class token) and the means of segments of its other tokens."""

    def segments(self, part_len):
        index_LS, inside_LS = segment_table(part_len - 1, self.num_segments)
        first_1S = np.zeros((1, index_LS.shape[1]), int)  # the first token, and repetitions of it
        inside_1S = np.arange(index_LS.shape[1])[None] == 0
        return np.concatenate([first_1S, index_LS + 1]), np.concatenate([inside_1S, inside_LS])

    def rows_sent(self, part_len):
        return self.num_segments + 1


config = replace(
    configs.load("configs/sst2_minilm.py"),
    grid=Grid(
        parts=(2, 4),
        segments=(),
        exchanges=(
            *(WeightedMeans(1, exponent) for exponent in (0, 0.5, 0.75, 1, 1.25, 1.5, 2)),
            pj.SegmentMeans(2),
            FirstTokenAndMeans(1),
        ),
    ),
)
