r"""Rows other than plain means for the same bytes: sigma points, and means of like tokens.

python -m eval.sweep configs/ideas/means.py --base configs/adapters/minilm_newsgroups --limit 1024 \
    --out runs/newsgroups/means
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

import prism_jax as pj
from prism_jax.exchange.sigma_points import principal_direction
from prism_jax.experiments import recipe as configs
from prism_jax.experiments.recipe import Grid


@dataclass(frozen=True)
class SortedMeans(pj.SegmentMeans):
    """Means of like tokens: a part sorts its real tokens along their principal direction, then cuts them equally.

    A row may stand for any tokens of its part, so it counts as the part's last.
    """

    def __call__(self, x_BTD, layout):
        self.check(layout.num_tokens, layout.num_parts)
        real_BT, real_BP = layout.real_BT, layout.real_BPT.sum(-1)
        bounds_BPM = -(-jnp.arange(self.num_segments + 1)[None, None] * real_BP[..., None] // self.num_segments)
        own_BM = jax.lax.dynamic_index_in_dim(bounds_BPM, layout.part, axis=1, keepdims=False)
        cell_BT = self.cells(x_BTD, real_BT, own_BM[:, -1:])
        inside_BLT = (cell_BT[:, None] == jnp.arange(self.num_segments)[None, :, None]) & real_BT[:, None]
        share_BLT = inside_BLT / jnp.maximum(inside_BLT.sum(-1, keepdims=True), 1)
        z_BLD = jnp.einsum("BLT,BTD->BLD", share_BLT.astype(x_BTD.dtype), x_BTD)
        last_PL = jnp.broadcast_to(layout.positions_PT[:, -1:], (layout.num_parts, self.num_segments))
        return self.share(x_BTD, z_BLD, jnp.diff(bounds_BPM), last_PL, layout)

    def cells(self, x_BTD, real_BT, count_B1):
        """Returns the segment of each token, [B, T]."""
        cell_BT = jnp.zeros(real_BT.shape, jnp.int32)
        return halves(x_BTD, real_BT, count_B1, cell_BT, 1, self.num_segments)

    def flops(self, part_len, num_parts, features):
        return 2 * self.num_segments * part_len * features if num_parts > 1 else 0


def halves(x_BTD, real_BT, count_B1, cell_BT, cells, parts):
    """Sorts the tokens of each of some cells along their principal direction; returns the new cell of each token."""
    inside_BCT = (cell_BT[:, None] == jnp.arange(cells)[None, :, None]) & real_BT[:, None]
    mean_BCD = (jnp.where(inside_BCT[..., None], x_BTD[:, None], 0)).sum(2)
    mean_BCD = mean_BCD / jnp.maximum(inside_BCT.sum(-1), 1)[..., None]
    d_BCTD = jnp.where(inside_BCT[..., None], x_BTD[:, None] - mean_BCD[:, :, None], 0)
    score_BT = (d_BCTD * principal_direction(d_BCTD)[:, :, None]).sum((1, 3))
    order_BT = jnp.lexsort((score_BT, cell_BT, ~real_BT))
    rank_BT = jnp.argsort(order_BT)
    return rank_BT * parts // jnp.maximum(count_B1, 1)


class BisectedMeans(SortedMeans):
    """Sorted means whose part is halved again and again, each half along its own direction. L is a power of 2."""

    def cells(self, x_BTD, real_BT, count_B1):
        cell_BT, cells = jnp.zeros(real_BT.shape, jnp.int32), 1
        while cells < self.num_segments:
            cell_BT = halves(x_BTD, real_BT, count_B1, cell_BT, cells, 2 * cells)
            cells *= 2
        return cell_BT

    def check(self, num_tokens, num_parts):
        super().check(num_tokens, num_parts)
        if self.num_segments & (self.num_segments - 1):
            raise pj.InputError(f"{self.num_segments} segments can't be halved from one; choose a power of 2")


config = replace(
    configs.load("configs/bert_newsgroups.py"),
    grid=Grid(
        parts=(4, 2),
        segments=(),
        exchanges=(
            pj.SegmentMeans(4),
            pj.exchange.SigmaPoints(2),
            SortedMeans(4),
            BisectedMeans(4),
            pj.SegmentMeans(8),
            pj.exchange.SigmaPoints(4),
            BisectedMeans(8),
        ),
    ),
)
