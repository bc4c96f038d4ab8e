"""DINOv2 (arXiv 2304.07193), equal to Hugging Face's `Dinov2Model` and the head on it: ViT's embeddings, and blocks
with layer scale. Its configs are ViT's, without a pooler. For its batches, see `models.vit`.

The checkpoints have position tables for 518 pixels. `vit.with_image_size` resizes them, as Hugging Face's model does by
itself for images of another size.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.transformer import head_dense
from prism_jax.models.base import ClassRowModel
from prism_jax.models.class_tokens import WithClassTokens
from prism_jax.models.vit import AbstractViT, ViTConfig, ViTEncoderWithClassTokens, ViTForImageFeatures
from prism_jax.parallel.partition import Layout

DINOV2_SMALL = ViTConfig(
    TransformerConfig(12, 384, 6, 1536, norm_eps=1e-6, layer_scale=True), image_size=(518, 518), patch_size=(14, 14)
)
"""`facebook/dinov2-small`: 22,056,192 parameters, and a mask token that no model of ours has."""


class Dinov2Model(AbstractViT):
    """Every hidden state, and the class row."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)

    def head(
        self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns hidden states [B, N, D] and the class row [B, D]."""
        return rows_BRD[:, : real_BN.shape[1]], rows_BRD[:, 0]


class Dinov2ForImageFeatures(ViTForImageFeatures):
    """The class row, as features of the image."""

    architecture: ClassVar[str] = "Dinov2Model"


class Dinov2ForImageClassification(ClassRowModel, AbstractViT):
    """Logits from the class row and the mean of the patches' rows, side by side."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.classifier = head_dense(self.config.num_labels, self.config.stack)

    def read(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        is_patch = layout.real_BT & (layout.positions_T >= self.config.num_special)[None]
        is_patch_BT = jnp.pad(is_patch, ((0, 0), (x_BTD.shape[1] - layout.part_len, 0)))  # a class row stands in front
        patches_B1D = jnp.where(is_patch_BT[..., None], x_BTD, 0).sum(1, keepdims=True)
        return jnp.concatenate([x_BTD[:, :1], patches_B1D], axis=1)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, C]."""
        num_patches = self.config.num_tokens - self.config.num_special
        class_BD = self.class_row(rows_BRD[:, ::2], real_BN)
        return self.classifier(jnp.concatenate([class_BD, rows_BRD[:, 1::2].sum(1) / num_patches], axis=-1))


class Dinov2WithClassTokens(WithClassTokens, Dinov2ForImageClassification):
    """`Dinov2ForImageClassification` with a class token on every part. The parameters are the same."""

    architecture: ClassVar[str] = "Dinov2ForImageClassification"
    encoder_class = ViTEncoderWithClassTokens
