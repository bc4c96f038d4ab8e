"""Means of tiles of an image, and the other means of configs/ideas/means.py, in the ViT.

python -m eval.sweep configs/ideas/cifar10_means.py --base runs/dinov2/exact --out runs/dinov2/means_of_tiles
"""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

import prism_jax as pj
from prism_jax.exchange.text import parse
from prism_jax.experiments import recipe as configs
from prism_jax.experiments.recipe import Grid


class TileMeans(pj.SegmentMeans):
    """Means of tiles of a square image in place of runs of patches in reading order. For models with a class token."""

    def __call__(self, x_BTD, layout):
        order_PT = tile_order(layout.num_tokens, layout.num_parts, self.num_segments)
        real_BPT = jnp.take_along_axis(layout.real_BPT, jnp.asarray(order_PT)[None], axis=2, mode="clip")
        own_T = jnp.asarray(order_PT)[layout.part]
        return super().__call__(x_BTD[:, own_T], layout.replace(real_BN=real_BPT.reshape(layout.real_BN.shape)))


def tile_order(num_tokens, num_parts, num_segments):
    """Returns the tokens of each part in an order whose equal runs are nearly square tiles, [P, T]."""
    T, side = -(-num_tokens // num_parts), round((num_tokens - 1) ** 0.5)
    position_PT = np.arange(num_parts * T).reshape(num_parts, T)
    row_PT, column_PT = np.divmod(position_PT - 1, side)
    bands = max(1, round((num_segments * T / side**2) ** 0.5))
    band_PT = (row_PT - row_PT[:, :1].clip(0)) * bands // max(1, round(T / side))
    snake_PT = np.where(band_PT % 2 == 0, column_PT, -column_PT)
    outside_PT = np.where(position_PT == 0, -1, position_PT >= num_tokens)
    return np.lexsort((row_PT, snake_PT, band_PT, outside_PT))


configs.load("configs/ideas/means.py")  # whose exchanges then have names
MEANS = ("means_after_norm:4", "sorted_means:4", "bisected_means:4", "sigma_points:2")
config = replace(
    configs.load("configs/vit_dinov2_cifar10.py"),
    grid=Grid(
        parts=(2, 4),
        segments=(),
        exchanges=(pj.IsolatedParts(), pj.SegmentMeans(4), TileMeans(4), *map(parse, MEANS)),
    ),
)
