"""A class token on every part (after ASTRA, arXiv 2505.19342), for models that classify by the row of theirs.

Each part has a class row of its own beside its tokens. It reads them as they are, and the other parts through the
exchange; no class row is sent. The head reads the mean of the class rows. One row more to compute, none more to send.
With all rows sent every class row is that of one device, and so is their mean. configs/ideas has models of this kind.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from prism_jax.exchange.base import Context, Exchanges, Wrapped, per_block
from prism_jax.layers.transformer import Stack
from prism_jax.parallel.partition import Layout


@dataclass(frozen=True)
class BesideClassRow(Wrapped):
    """An exchange of a part's rows but its first, the class row, which stays at home."""

    def __call__(self, x_BTD, layout):
        inner = replace(layout, real_BN=layout.real_BPT[:, :, 1:].reshape(len(x_BTD), -1))
        context = self.of(x_BTD[:, 1:], replace(inner, num_tokens=inner.real_BN.shape[1]))
        return Context(
            jnp.concatenate([x_BTD[:, :1], context.x_BKD], 1),
            jnp.pad(context.weight_BK, ((0, 0), (1, 0)), constant_values=1),
            jnp.pad(context.last_K, (1, 0)),
        )

    def rows_sent(self, part_len):
        return self.of.rows_sent(part_len - 1)


def with_class_row(
    blocks: Stack, x_BTD: jax.Array, class_D: jax.Array, layout: Layout, exchange: Exchanges
) -> jax.Array:
    """What the blocks make of a part's rows with a class row in front, [B, 1 + T, D].

    Args:
      blocks: of the model.
      x_BTD: embedded rows; the one at position 0, the class token's, is hidden.
      class_D: the class token, embedded.
      layout: where this part stands.
      exchange: of the rows but the class row.
    """
    class_B1D = jnp.broadcast_to(class_D, (len(x_BTD), 1, x_BTD.shape[2]))
    real_BPT = jnp.pad(layout.real_BPT.at[:, 0, 0].set(False), ((0, 0), (0, 0), (1, 0)), constant_values=True)
    layout = replace(layout, real_BN=real_BPT.reshape(len(x_BTD), -1), num_tokens=real_BPT[0].size)
    each = tuple(map(BesideClassRow, per_block(exchange, blocks.config.num_layers)))
    return blocks(jnp.concatenate([class_B1D, x_BTD], 1), each, layout)[0]


def mean_of_class_rows(rows_BPD: jax.Array, real_BN: jax.Array) -> jax.Array:
    """Over the parts that have a real token, [B, 1, D].

    Args:
      rows_BPD: the class row of each part.
      real_BN: the real tokens, as a head is given them.
    """
    B, P, _ = rows_BPD.shape
    real_BPT = jnp.pad(real_BN, ((0, 0), (0, -real_BN.shape[1] % P))).reshape(B, P, -1)
    weight_BP1 = real_BPT.any(2)[..., None]
    return (rows_BPD * weight_BP1).sum(1, keepdims=True) / jnp.maximum(weight_BP1.sum(1, keepdims=True), 1)
