r"""Learned summary queries: rows that attend to a part's own rows, in place of segment means.

python -m train.calibrate configs/ideas/summary_queries.py --exchanges summary_queries:4 --out runs/queries
python -m eval.sweep configs/ideas/summary_queries.py --exchange-arrays runs/queries/exchange.safetensors \
    --exchanges summary_queries:4 --segments --parts 2 4 --limit 512 --out runs/queries/sweep
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

import prism_jax as pj
from prism_jax.exchange import BlockArray, array_field
from prism_jax.experiments import recipe as configs


@dataclass(frozen=True)
class SummaryQueries(pj.SegmentMeans):
    """A part sends `sum_t softmax_t(x_t query_l - outside_l [t outside segment l]) x_t` for each of L queries.

    At first a query is 0 and `outside` 4, so a token of another segment has e^-4 of the share of an own one. A row
    keeps the count of its segment, since counts must be known without communication.
    """

    query_LD: jax.Array | None = array_field()
    outside_L: jax.Array | None = array_field()

    def arrays(self, features):
        L = self.num_segments
        return {"query_LD": BlockArray((L, features), start=0.0), "outside_L": BlockArray((L,), start=4.0)}

    @property
    def arrays_name(self):
        return f"summary_queries_{self.num_segments}"

    def __call__(self, x_BTD, layout):
        self.check(layout.num_tokens, layout.num_parts)
        index_LS, inside_LS = self.segments(layout.part_len)
        L, T = self.num_segments, layout.part_len
        inside_LT = jnp.zeros((L, T), bool).at[jnp.arange(L)[:, None], index_LS].max(inside_LS)
        outside_LT = jnp.where(inside_LT, 0, self.outside_L[:, None])
        score_BLT = jnp.einsum("BTD,LD->BLT", x_BTD, self.query_LD) - outside_LT[None]
        real_B1T = layout.real_BT[:, None]
        share_BLT = jax.nn.softmax(jnp.where(real_B1T, score_BLT, -1e9), where=real_B1T, axis=-1)
        z_BLD = jnp.einsum("BLT,BTD->BLD", share_BLT, jnp.where(layout.real_BT[..., None], x_BTD, 0))
        own_BLT = layout.real_BT[:, None] & inside_LT[None]
        z_BLD = jnp.where(own_BLT.any(2, keepdims=True), z_BLD, 0)
        count_BPL = (layout.real_BPT[:, :, None] & inside_LT[None, None]).sum(-1)
        last_PL = jnp.broadcast_to(layout.positions_PT[:, -1:], (layout.num_parts, L))
        return self.share(x_BTD, z_BLD, count_BPL, last_PL, layout)

    def flops(self, part_len, num_parts, features):
        return 4 * self.num_segments * part_len * features if num_parts > 1 else 0


config = replace(configs.load("configs/bert_newsgroups.py"), exchange_arrays=None)
