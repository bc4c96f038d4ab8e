"""Two ideas on segment means, each an exchange of one's own: what log(count) should weigh, and the class token kept whole.

python -m eval.sweep docs/sst2_ideas/ideas.py --out runs/sst2_minilm/ideas --base runs/sst2_minilm/exact
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp

import prism_jax as pj
from prism_jax import config as configs
from prism_jax.exchange import segment_table


@dataclass(frozen=True)
class WeightedMeans(pj.Exchange):
    """Segment means with a weight on log(count), in percent: 0 leaves it out, 100 is PRISM."""

    num_segments: int
    percent: int

    def __call__(self, x_BTD, layout):
        context = pj.SegmentMeans(self.num_segments, wire=self.wire)(x_BTD, layout)
        count_BK = context.count_BK
        return context.replace(count_BK=jnp.where(count_BK > 0, count_BK ** (self.percent / 100), 0))

    def rows_sent(self, part_len):
        return self.num_segments


@dataclass(frozen=True)
class FirstTokenAndMeans(pj.Exchange):
    """A part's first token as it is (in the first part, the class token) and the means of segments of its other tokens."""

    num_segments: int

    def __call__(self, x_BTD, layout):
        index_LS, inside_LS = segment_table(layout.part_len - 1, self.num_segments)
        first_1S = jnp.zeros((1, index_LS.shape[1]), int)
        index_LS = jnp.concatenate([first_1S, index_LS + 1])
        inside_LS = jnp.concatenate([first_1S.at[0, 0].set(1) > 0, inside_LS])
        real_BLS = layout.real_BT[:, index_LS] & inside_LS
        total_BLD = jnp.where(real_BLS[..., None], x_BTD[:, index_LS], 0).sum(2)
        z_BLD = total_BLD / jnp.maximum(real_BLS.sum(-1), 1)[..., None]
        count_BPL = (layout.real_BPT[:, :, index_LS] & inside_LS).sum(-1)
        return self.share(x_BTD, z_BLD, count_BPL, layout.positions_PT[:, index_LS[:, -1]], layout)

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
