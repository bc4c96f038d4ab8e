"""Rows other than plain means for the same bytes: sigma points, sorted segments, learned queries.

python -m eval.sweep configs/ideas/means.py --limit 1024 --out runs/newsgroups/means
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

import prism_jax as pj
from prism_jax.exchange import BlockArray, Segments, array_field
from prism_jax.experiments import recipe as configs
from prism_jax.experiments.recipe import Grid


@dataclass(frozen=True)
class SigmaPoints(pj.SegmentMeans):
    """Two rows for a segment: its mean plus and minus its principal deviation, each with half of its count."""

    def segments(self, part_len):
        index_LS, inside_LS = super().segments(part_len)
        return np.concatenate([index_LS, index_LS]), np.concatenate([inside_LS, inside_LS])

    def pool(self, x_BLSD, real_BLS):
        x_BLSD, real_BLS = x_BLSD[:, : self.num_segments], real_BLS[:, : self.num_segments]
        mean_BLD = super().pool(x_BLSD, real_BLS)
        d_BLSD = jnp.where(real_BLS[..., None], x_BLSD - mean_BLD[:, :, None], 0)
        along_BLS = (d_BLSD * principal(d_BLSD)[:, :, None]).sum(-1)
        variance_BL1 = (along_BLS**2).sum(-1, keepdims=True) / jnp.maximum(real_BLS.sum(-1, keepdims=True), 1)
        v_BLD = principal(d_BLSD) * jnp.sqrt(variance_BL1)
        return jnp.concatenate([mean_BLD + v_BLD, mean_BLD - v_BLD], axis=1)

    def __call__(self, x_BTD, layout):
        context = super().__call__(x_BTD, layout)
        return replace(context, weight_BK=context.weight_BK.at[:, layout.part_len :].divide(2))

    def rows_sent(self, part_len):
        return 2 * self.num_segments


def principal(d_SD):
    """Returns the direction of the largest deviations, [..., D]: two power iterations from the largest one."""
    longest = jnp.argmax((d_SD**2).sum(-1), axis=-1)[..., None, None]
    u_D = jnp.take_along_axis(d_SD, longest, axis=-2, mode="clip")[..., 0, :]
    for _ in range(2):
        u_D = ((d_SD * u_D[..., None, :]).sum(-1, keepdims=True) * d_SD).sum(-2)
        u_D = u_D / jnp.maximum(jnp.linalg.norm(u_D, axis=-1, keepdims=True), 1e-12)
    return jax.lax.stop_gradient(u_D)


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
    score_BT = (d_BCTD * principal(d_BCTD)[:, :, None]).sum((1, 3))
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


@dataclass(frozen=True)
class QueriedMeans(Segments):
    """Learned queries, one for each row, which attend to all tokens of the part. Before training they make means."""

    query_LD: jax.Array | None = array_field()
    near_L: jax.Array | None = array_field()

    def arrays(self, features):
        return {
            "query_LD": BlockArray((self.num_segments, features), start=0.0),
            "near_L": BlockArray((self.num_segments,), start=8.0),
        }

    def segments(self, part_len):
        index_LS, _ = super().segments(part_len)
        self_LT = np.zeros((self.num_segments, part_len), bool)
        np.put_along_axis(self_LT, index_LS, True, axis=1)
        return np.broadcast_to(np.arange(part_len), self_LT.shape), self_LT

    def pool(self, x_BLSD, real_BLS):
        x_BTD, real_BT = x_BLSD[:, 0], real_BLS.any(1)
        near_BLT = jnp.where(real_BLS, self.near_L[None, :, None], 0)
        score_BLT = jnp.einsum("BTD,LD->BLT", x_BTD, self.query_LD) + near_BLT
        share_BLT = jax.nn.softmax(jnp.where(real_BT[:, None], score_BLT, -1e9), axis=-1)
        return jnp.einsum("BLT,BTD->BLD", share_BLT, jnp.where(real_BT[..., None], x_BTD, 0))

    def flops(self, part_len, num_parts, features):
        return 4 * self.num_segments * part_len * features if num_parts > 1 else 0


MEANS = tuple(kind(L) for L in (4, 8) for kind in (pj.SegmentMeans, SortedMeans, BisectedMeans))
config = replace(
    configs.load("configs/bert_newsgroups.py"),
    grid=Grid(parts=(2, 4), segments=(), exchanges=(pj.IsolatedParts(), *MEANS, SigmaPoints(2), SigmaPoints(4))),
)
