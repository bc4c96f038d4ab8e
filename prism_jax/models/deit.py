"""DeiT (arXiv 2012.12877), equal to Hugging Face's `DeiTModel` and the heads on it: ViT with a distillation token after
the class token. Its configs are ViT's with `distilled`. For its batches, see `models.vit`.
"""

from typing import ClassVar

import jax

from prism_jax.layers.transformer import head_dense
from prism_jax.models.vit import (
    AbstractViT,
    ViTForImageClassification,
    ViTForImageFeatures,
    ViTHiddenStates,
    ViTModel,
    ViTWithClassTokens,
)
from prism_jax.parallel.partition import Layout


class DeiTModel(ViTModel):
    """Every hidden state, and the pooler's output."""


class DeiTHiddenStates(ViTHiddenStates):
    """Every hidden state, of checkpoints without a pooler: Hugging Face's `DeiTModel(add_pooling_layer=False)`."""

    architecture: ClassVar[str] = "DeiTModel"


class DeiTForImageFeatures(ViTForImageFeatures):
    """The class row, as features of the image."""

    architecture: ClassVar[str] = "DeiTModel"


class DeiTForImageClassification(ViTForImageClassification):
    """Logits from the class row."""


class DeiTForImageClassificationWithTeacher(AbstractViT):
    """Logits from the class row and from the distillation token's row, each with a layer of its own: their mean."""

    label_layers: ClassVar[tuple[str, ...]] = ("cls_classifier", "distillation_classifier")

    def setup(self):
        config = self.config
        self.encoder = self.encoder_class(config)
        self.cls_classifier = head_dense(config.num_labels, config.stack)
        self.distillation_classifier = head_dense(config.num_labels, config.stack)

    def read(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        return x_BTD[:, :2]

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, C]."""
        return (self.cls_classifier(rows_BRD[:, 0]) + self.distillation_classifier(rows_BRD[:, 1])) / 2


class DeiTWithClassTokens(ViTWithClassTokens, DeiTForImageClassification):
    """`DeiTForImageClassification` with a class token on every part. The parameters are the same. The distillation
    token is a token like another one: it lies in the first part."""

    architecture: ClassVar[str] = "DeiTForImageClassification"
