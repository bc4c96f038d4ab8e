"""Learned means of keys and values."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.block_array import BlockArray, array_field
from prism_jax.exchange.segments import Segments
from prism_jax.records import Count, check_value


@dataclass(frozen=True)
class HeadMeans(Segments):
    """A part sends a learned mean of the keys and values of each segment and head.

    The mean of keys is `sum_s softmax_s(k_s gate) k_s` over the segment's real tokens, with the keys k_s of the head.
    That of values has the same shares. So a gate is a query, divided by sqrt(F), that a block has learned for all
    readers: if theirs were equal to it, the mean of values would be the answer of attention in the segment (but for
    rotary positions, which come later). Expected Attention (arXiv 2510.00636) scores keys by the queries to expect.
    Each head then maps its mean z to `z + z map + shift`, which corrects what one row can't say for many. Attention
    Matching (arXiv 2602.16284) fits a compacted cache so.

    All three are 0 at first, which makes plain means; `train.calibrate` fits them, and training changes them.

    Attributes:
      num_heads: G, key heads of the model, not heads of queries. With a divisor of it, neighbouring heads share a gate.
      gate_GF, map_CGFF, shift_CGF: of one block; C is 2, for keys and values.
    """

    num_heads: Count
    gate_GF: jax.Array | None = array_field()
    map_CGFF: jax.Array | None = array_field()
    shift_CGF: jax.Array | None = array_field()

    keys_values = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_value("num_heads", self.num_heads, Count)

    @property
    def arrays_name(self) -> str:
        return f"head_means_{self.num_heads}"

    def arrays(self, features: int) -> dict[str, BlockArray]:
        G, F = self.num_heads, self._head_width(features)
        return {
            "gate_GF": BlockArray((G, F), start=0.0),
            "map_CGFF": BlockArray((2, G, F, F), start=0.0),
            "shift_CGF": BlockArray((2, G, F), start=0.0),
        }

    def _head_width(self, features: int) -> int:
        width, rest = divmod(features, 2 * self.num_heads)
        if rest:
            raise InputError(
                f"{self} divides keys into {self.num_heads} heads, but the model's keys have {features // 2} numbers; "
                "choose the number of its key heads (num_key_value_heads, if its config has that)"
            )
        return width

    def pool(self, x_BLSD: jax.Array, real_BLS: jax.Array) -> jax.Array:
        assert self.gate_GF is not None  # `bind` gives them
        assert self.shift_CGF is not None
        heads_BLSCGF = x_BLSD.reshape(*x_BLSD.shape[:-1], 2, self.num_heads, -1)
        real_BLS1 = real_BLS[..., None]
        score_BLSG = (heads_BLSCGF[..., 0, :, :] * self.gate_GF[None, None, None]).sum(-1)
        share_BLSG = jax.nn.softmax(jnp.where(real_BLS1, score_BLSG, -jnp.inf), axis=2, where=real_BLS1)
        real_BLSCGF = jnp.where(real_BLS[..., None, None, None], heads_BLSCGF, 0)
        z_BLCGF = jnp.einsum("BLSCGF,BLSG->BLCGF", real_BLSCGF, share_BLSG)
        z_BLCGF += jnp.einsum("BLCGF,CGFE->BLCGE", z_BLCGF, self.map_CGFF) + self.shift_CGF[None, None]
        return z_BLCGF.reshape(*x_BLSD.shape[:2], -1)

    def flops(self, part_len: int, num_parts: int, features: int) -> float:
        if num_parts == 1:
            return 0
        mapped = self.num_segments * self._head_width(features)
        return 2 * (self.padded_tokens(part_len) + mapped) * features
