"""Learned means of segments."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from prism_jax.exchange.block_array import BlockArray, array_field
from prism_jax.exchange.segments import Segments


@dataclass(frozen=True)
class GatedMeans(Segments):
    """A part sends a learned mean of each segment: `sum_s softmax_s(x_s gate) x_s` over its real tokens.

    Each block has one gate for all segments. It is 0 at first, which makes plain means; `train.calibrate` fits it, and
    training changes it. The formula is that of attention pooling (Yang et al. 2016, Hierarchical Attention Networks),
    without its hidden layer.

    Attributes:
      gate_D: of one block.
    """

    gate_D: jax.Array | None = array_field()

    def arrays(self, features: int) -> dict[str, BlockArray]:
        return {"gate_D": BlockArray((features,), start=0.0)}

    def pool(self, x_BLSD: jax.Array, real_BLS: jax.Array) -> jax.Array:
        score_BLS = jnp.where(real_BLS, jnp.einsum("BLSD,D->BLS", x_BLSD, self.gate_D), -jnp.inf)
        share_BLS = jax.nn.softmax(score_BLS, axis=-1, where=real_BLS)
        return jnp.einsum("BLSD,BLS->BLD", jnp.where(real_BLS[..., None], x_BLSD, 0), share_BLS)

    def flops(self, part_len: int, num_parts: int, features: int) -> float:
        return 4 * self.padded_tokens(part_len) * features if num_parts > 1 else 0
