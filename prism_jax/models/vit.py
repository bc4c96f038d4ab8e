"""ViT (arXiv 2010.11929), equal to Hugging Face's `ViTModel` and the heads on it.

A batch holds `patches` float32 [B, N, pixels of a patch]: row 0 is empty, for the class token (row 1 too where there
is a distillation token), and the patches follow row by row of the image (`images.patchify`). A device gets the pixels
of its own patches only.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchanges
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.dropout import dropout
from prism_jax.layers.embeddings import embedding
from prism_jax.layers.transformer import Stack, dense, head_dense, layer_norm
from prism_jax.models.base import ClassRowModel, Model
from prism_jax.models.class_tokens import WithClassTokens, with_class_row
from prism_jax.parallel.partition import Layout
from prism_jax.records import Side, Width


@dataclass(frozen=True)
class ViTConfig:
    """A ViT model. Sizes are (height, width) in pixels.

    Attributes:
      stack: the blocks.
      image_size: of the images. Pixels on the right and below that fill no patch are cut off.
      patch_size: of a patch.
      num_channels: number of colours.
      num_labels: C, classes of a classification head.
      pooler_features: width of the pooler's output; None for D.
      pooler_activation: a key of ACTIVATIONS.
      distilled: whether a distillation token follows the class token (DeiT).
    """

    stack: TransformerConfig
    image_size: tuple[Side, Side] = (224, 224)
    patch_size: tuple[Side, Side] = (16, 16)
    num_channels: Width = 3
    num_labels: Width = 2
    pooler_features: Width | None = None
    pooler_activation: str = "tanh"
    distilled: bool = False

    def __post_init__(self):
        if min(self.patch_size) < 1 or min(self.grid) < 1:
            raise InputError(
                f"patches of {_by(self.patch_size)} don't fit in images of {_by(self.image_size)}; "
                "choose patch_size <= image_size, and at least 1"
            )
        if self.pooler_activation not in ACTIVATIONS:
            raise InputError(f"unknown activation {self.pooler_activation!r}; known are {', '.join(ACTIVATIONS)}")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in a column and in a row of the image."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_special(self) -> int:
        """Tokens in front of the patches: the class token, and the distillation token if there is one."""
        return 2 if self.distilled else 1

    @property
    def num_tokens(self) -> int:
        """N: the special tokens and the patches."""
        return self.num_special + self.grid[0] * self.grid[1]

    @property
    def patch_pixels(self) -> int:
        """Numbers in a patch, of all colours."""
        return self.num_channels * self.patch_size[0] * self.patch_size[1]


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


VIT_SMALL = ViTConfig(TransformerConfig(12, 384, 6, 1536))
"""ViT-S/16: 21,813,504 parameters with its pooler."""

VIT_BASE = ViTConfig(TransformerConfig(12, 768, 12, 3072))
"""ViT-B/16, `google/vit-base-patch16-224-in21k`: 86,389,248 parameters with its pooler."""

VIT_LARGE = ViTConfig(TransformerConfig(24, 1024, 16, 4096))
"""ViT-L/16, `google/vit-large-patch16-224-in21k`: 304,351,232 parameters with its pooler."""


def check_tokens(config: ViTConfig, num_tokens: int) -> None:
    """Raises InputError if this is not the number of tokens of an image."""
    if num_tokens != config.num_tokens:
        raise InputError(
            f"a sequence of {num_tokens} tokens, but an image of {_by(config.image_size)} in patches of "
            f"{_by(config.patch_size)} has {config.num_tokens}, special tokens included; "
            f"choose num_tokens = {config.num_tokens}, or another resolution by vit.with_image_size"
        )


class ViTEncoder(nn.Module):
    """Embeddings, blocks and the last norm."""

    config: ViTConfig

    def setup(self):
        config, stack = self.config, self.config.stack
        self.patch = dense(stack.features, stack)
        init = nn.initializers.normal(stack.init_scale)
        self.class_token = self.param("class_token", init, (stack.features,), jnp.float32)
        if config.distilled:
            self.distillation_token = self.param("distillation_token", init, (stack.features,), jnp.float32)
        self.position = embedding(config.num_tokens, stack)
        self.blocks = Stack(stack)
        self.norm = layer_norm(stack)

    def __call__(self, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges) -> jax.Array:
        return self.norm(self.blocks(self.embed(tokens, layout), exchange, layout)[0])

    def embed(self, tokens: dict[str, jax.Array], layout: Layout) -> jax.Array:
        """Returns the rows before the first block, [B, T, D]."""
        config, stack = self.config, self.config.stack
        patches = tokens["patches"]
        if patches.shape[-1] != config.patch_pixels:
            raise InputError(
                f"patches of {patches.shape[-1]} numbers, but {config.num_channels} channels of "
                f"{_by(config.patch_size)} "
                f"are {config.patch_pixels}; make them with images.patchify and this model's config"
            )
        # Each part knows by itself whether it holds position 0, and puts the class token there.
        first_BTD = (layout.positions_T == 0)[None, :, None]
        x_BTD = jnp.where(first_BTD, self.class_token[None, None], self.patch(patches))
        if config.distilled:
            second_BTD = (layout.positions_T == 1)[None, :, None]
            x_BTD = jnp.where(second_BTD, self.distillation_token[None, None], x_BTD)
        position_T = jnp.minimum(layout.positions_T, config.num_tokens - 1)  # P*T may pass N by up to P - 1
        x_BTD = x_BTD + self.position(position_T)[None]
        return dropout(x_BTD, stack.dropout, replace(layout, block=stack.num_layers).block_keys_B, site=0)


class ViTEncoderWithClassTokens(ViTEncoder):
    """Embeddings, blocks and the last norm, with a class token on every part if there are several."""

    def __call__(self, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges) -> jax.Array:
        x_BTD = self.embed(tokens, layout)
        if layout.num_parts == 1:
            return self.norm(self.blocks(x_BTD, exchange, layout)[0])
        class_D = self.class_token + self.position.embedding[0]
        class_BD = jnp.broadcast_to(class_D, (len(x_BTD), class_D.size))
        return self.norm(with_class_row(self.blocks, x_BTD, class_BD, layout, exchange))


class AbstractViT(Model):
    """The base of the ViT models. Abstract: a subclass sets up the encoder and its head, and has `head`."""

    config: ViTConfig
    encoder_class: ClassVar[type[nn.Module]] = ViTEncoder

    def check(self, num_tokens: int) -> None:
        check_tokens(self.config, num_tokens)

    def batch_shapes(self, batch_size: int, num_tokens: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (batch_size, num_tokens, self.config.patch_pixels)
        return {"patches": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def _new_pooler(self) -> nn.Module:
        return head_dense(self.config.pooler_features or self.config.stack.features, self.config.stack)

    def _pooled(self, row_BD: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.config.pooler_activation](self.pooler(row_BD))


class ViTModel(AbstractViT):
    """Every hidden state, and the pooler's output."""

    def setup(self):
        self.encoder, self.pooler = self.encoder_class(self.config), self._new_pooler()

    def head(
        self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns hidden states [B, N, D] and pooled [B, pooler_features]."""
        return rows_BRD[:, : real_BN.shape[1]], self._pooled(rows_BRD[:, 0])


class ViTHiddenStates(AbstractViT):
    """Every hidden state, of checkpoints without a pooler: Hugging Face's `ViTModel(add_pooling_layer=False)`."""

    architecture: ClassVar[str] = "ViTModel"

    def setup(self):
        self.encoder = self.encoder_class(self.config)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns hidden states [B, N, D]."""
        return rows_BRD[:, : real_BN.shape[1]]


class ViTForImageFeatures(ClassRowModel, AbstractViT):
    """The class row, as features of the image."""

    architecture: ClassVar[str] = "ViTModel"

    def setup(self):
        self.encoder = self.encoder_class(self.config)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns features [B, D]."""
        return self.class_row(rows_BRD, real_BN)


class ViTForPooledFeatures(ClassRowModel, AbstractViT):
    """The pooler's output for the class row, as features of the image."""

    architecture: ClassVar[str] = "ViTModel"

    def setup(self):
        self.encoder, self.pooler = self.encoder_class(self.config), self._new_pooler()

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns features [B, pooler_features]."""
        return self._pooled(self.class_row(rows_BRD, real_BN))


class ViTForImageClassification(ClassRowModel, AbstractViT):
    """Logits from the class row."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.classifier = head_dense(self.config.num_labels, self.config.stack)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, C]."""
        return self.classifier(self.class_row(rows_BRD, real_BN))


class ViTWithClassTokens(WithClassTokens, ViTForImageClassification):
    """`ViTForImageClassification` with a class token on every part. The parameters are the same."""

    architecture: ClassVar[str] = "ViTForImageClassification"
    encoder_class = ViTEncoderWithClassTokens


def with_image_size(model: Model, params: Any, image_size: tuple[int, int]) -> tuple[Model, Any]:
    """Returns the model for images of another (height, width), its position table resized.

    Equal to Hugging Face's `interpolate_pos_encoding=True`: bicubic over the grid of patches, without antialiasing; the
    special tokens keep their rows. Resizing twice is not the same as once: start from the weights as they were loaded.

    Raises:
      InputError: if not even one patch fits in.
    """
    config = replace(model.config, image_size=tuple(image_size))
    table = params["encoder"]["position"]["embedding"]
    if config.grid == model.config.grid:
        return model.clone(config=config), params
    special = config.num_special
    patches = table[special:].reshape(*model.config.grid, -1)
    resized = jax.image.resize(patches, (*config.grid, patches.shape[-1]), "cubic-pytorch", antialias=False)
    table = jnp.concatenate([table[:special], resized.reshape(-1, patches.shape[-1])])
    encoder = {**params["encoder"], "position": {"embedding": table}}
    return model.clone(config=config), {**params, "encoder": encoder}
