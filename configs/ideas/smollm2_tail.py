"""An idea beside means under rotary positions: each part sends its last tokens, and nothing of its others.

python -m eval.sweep configs/ideas/smollm2_tail.py --out runs/smollm2/tail
"""

from dataclasses import replace

import numpy as np

from prism_jax.exchange import FirstTokens, KeysValues, UnscaledMeans
from prism_jax.experiments import recipe as configs
from prism_jax.experiments.recipe import Grid


class Tail(UnscaledMeans):
    """A part sends its last `num_segments` tokens as they are: segments of one token each."""

    def segments(self, part_len):
        index_LS = np.arange(part_len - self.num_segments, part_len)[:, None]
        return index_LS, np.ones_like(index_LS, bool)


config = replace(
    configs.load("configs/smollm2.py"),
    grid=Grid(parts=(2, 4), segments=(), exchanges=(FirstTokens(KeysValues(Tail(16)), 1),)),
)
