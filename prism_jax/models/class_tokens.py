"""A class token on every part (after ASTRA, arXiv 2505.19342), for models that classify by the class token's row.

Each part has a class row beside its tokens. The row reads these tokens as they are, and the other parts through the
exchange; no class row is sent. The head reads the mean of the class rows. A part computes one row more, and sends none
more. With all rows sent, every class row is that of one device, and so is their mean. One part has no extra row.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from prism_jax.exchange.base import Context, Exchanges, per_block
from prism_jax.exchange.wrapped import Wrapped
from prism_jax.layers.transformer import Stack
from prism_jax.models.base import ClassRowModel
from prism_jax.parallel.partition import Layout


class WithClassTokens(ClassRowModel):
    """A model with a class token on every part. Mix it into a model that classifies by its class row,
    and set `encoder_class` to an encoder that calls `with_class_row`."""

    extra_rows: ClassVar[int] = 1

    def class_row(self, rows_BRD: jax.Array, real_BN: jax.Array) -> jax.Array:
        """Returns the mean of the class rows of the parts that have a real token, [B, D]."""
        B, P, _ = rows_BRD.shape
        real_BPT = jnp.pad(real_BN, ((0, 0), (0, -real_BN.shape[1] % P))).reshape(B, P, -1)
        weight_BP1 = real_BPT.any(2)[..., None]
        return (rows_BRD * weight_BP1).sum(1) / jnp.maximum(weight_BP1.sum(1), 1)


@dataclass(frozen=True)
class _BesideClassRow(Wrapped):
    """Runs an exchange on a part's rows without the first. That is the class row, which is not sent."""

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        inner = replace(layout, real_BN=layout.real_BPT[:, :, 1:].reshape(len(x_BTD), -1))
        context = self.of(x_BTD[:, 1:], replace(inner, num_tokens=inner.real_BN.shape[1]))
        return Context(
            jnp.concatenate([x_BTD[:, :1], context.x_BKD], 1),
            jnp.pad(context.weight_BK, ((0, 0), (1, 0)), constant_values=1),
            jnp.pad(context.last_K, [(0, 0)] * (context.last_K.ndim - 1) + [(1, 0)]),
            memory=context.memory,
        )

    def rows_sent(self, part_len: int) -> int:
        return self.of.rows_sent(part_len - 1)


def with_class_row(
    blocks: Stack, x_BTD: jax.Array, class_BD: jax.Array, layout: Layout, exchange: Exchanges
) -> jax.Array:
    """Runs the blocks on a part's rows with a class row in front.

    Args:
      blocks: of the model.
      x_BTD: embedded rows. The one of the sequence's own class token, its first real token, is hidden.
      class_BD: the class token, embedded.
      layout: where this part stands.
      exchange: of the rows but the class row.

    Returns:
      Rows after the last block, the class row first: [B, 1 + T, D].
    """
    is_class_BN = jnp.arange(layout.real_BN.shape[1])[None] == class_positions(layout.real_BN)[:, None]
    real_BPT = (layout.real_BN & ~is_class_BN).reshape(layout.real_BPT.shape)
    real_BPR = jnp.pad(real_BPT, ((0, 0), (0, 0), (1, 0)), constant_values=True)
    layout = replace(layout, real_BN=real_BPR.reshape(len(x_BTD), -1), num_tokens=real_BPR[0].size)
    each = tuple(map(_BesideClassRow, per_block(exchange, blocks.config.num_layers)))
    return blocks(jnp.concatenate([class_BD[:, None], x_BTD], 1), each, layout)[0]


def class_positions(real_BN: jax.Array) -> jax.Array:
    """Returns the position of the class token, the first real token of each sequence: int32 [B]."""
    return jnp.argmax(real_BN, axis=1).astype(jnp.int32)
