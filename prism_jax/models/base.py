"""The base class of all models: the methods that `forward` calls."""

from typing import Any, ClassVar

import flax.linen as nn
import jax

from prism_jax.exchange.base import Exchanges
from prism_jax.parallel.partition import Layout


class Model(nn.Module):
    """A Transformer whose tokens are cut into parts. Abstract: a subclass names its config's class, sets up
    `self.encoder` and the layers of its head, and has `head`, `check` and `batch_shapes`.

    Attributes:
      config: sizes of the model, a frozen dataclass with a `stack: TransformerConfig`.
      extra_rows: rows that a part computes beside those of its tokens.
      label_layers: paths of the layers of the head that have an output for each class, where there are classes.
    """

    config: Any
    extra_rows: ClassVar[int] = 0
    label_layers: ClassVar[tuple[str, ...]] = ("classifier",)

    def part(self, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges) -> jax.Array:
        """Returns the rows of this part that the head reads, [B, R, D]. Runs on every part: embeds, runs the blocks.

        Args:
          tokens: this part's slice of a batch.
          layout: where this part stands.
          exchange: of all blocks, or one for each.
        """
        return self.read(self.encoder(tokens, layout, exchange), layout)

    def read(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        """Returns the rows of this part that the head reads: all of them, unless a subclass picks some."""
        return x_BTD

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> Any:
        """Returns the answer for a batch, from the joined rows. Runs on every device, after the join.

        Args:
          rows_BRD: rows of all parts, in the order of the parts: [B, P*R, D].
          real_BN: which tokens are real.
          keys_B: one random key an example, for dropout; None where nothing is dropped.
        """
        raise NotImplementedError

    def check(self, num_tokens: int) -> None:
        """Raises InputError if the model can't take N tokens."""
        raise NotImplementedError

    def batch_shapes(self, batch_size: int, num_tokens: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and types of a batch's arrays, [B, N, ...]."""
        raise NotImplementedError


class ClassRowModel(Model):
    """A model whose head reads one row, the class token's: the first of the first part."""

    def read(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        return x_BTD[:, :1]

    def class_row(self, rows_BRD: jax.Array, real_BN: jax.Array) -> jax.Array:
        """Returns the row that the head reads, [B, D]. Arguments as for `head`."""
        return rows_BRD[:, 0]
