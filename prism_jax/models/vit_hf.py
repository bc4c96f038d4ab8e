"""Hugging Face's config and tensor names for ViT, and what those of DeiT and DINOv2 share with them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prism_jax.errors import InputError
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.config import TransformerConfig
from prism_jax.models.hf_names import (
    ANY,
    Entry,
    Table,
    check_written,
    linear,
    norm,
    read_attributes,
    refuse_unsupported,
    write_attributes,
)
from prism_jax.models.vit import ViTConfig

ATTRIBUTES = {
    "num_hidden_layers": "stack.num_layers",
    "hidden_size": "stack.features",
    "num_attention_heads": "stack.num_heads",
    "intermediate_size": "stack.mlp_features",
    "hidden_act": "stack.activation",
    "layer_norm_eps": "stack.norm_eps",
    "qkv_bias": "stack.qkv_bias",
    "hidden_dropout_prob": "stack.dropout",
    "attention_probs_dropout_prob": "stack.attention_dropout",
    "initializer_range": "stack.init_scale",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "num_channels": "num_channels",
    "pooler_output_size": "pooler_features",
    "pooler_act": "pooler_activation",
}
"""Our fields by the attributes of a Hugging Face ViTConfig."""

SUPPORTED = dict.fromkeys(ATTRIBUTES, ANY) | {
    "model_type": {"vit"},
    "hidden_act": set(ACTIVATIONS),
    "qkv_bias": {True, False},
    "pooler_act": set(ACTIVATIONS),
    "encoder_stride": ANY,  # of the decoder for masked images
    "chunk_size_feed_forward": {0},
    "is_encoder_decoder": {False},
    "pruned_heads": {None, ()},
}
"""Values of a Hugging Face ViTConfig that are implemented, by attribute. `refuse_unsupported` names all others."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> ViTConfig:
    """Returns our config, from the attributes of a Hugging Face `ViTConfig`.

    Args:
      hf_config: `ViTConfig.to_dict()`.
      num_labels: C, classes of the head; None for those of the checkpoint.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(hf_config, SUPPORTED)
    return read(ATTRIBUTES, hf_config, num_labels=num_labels or len(hf_config["id2label"]))


def read(names: Mapping[str, str], hf_config: dict, **own: Any) -> ViTConfig:
    """Returns our config, from attributes whose values are all implemented.

    Args:
      names: our fields by the attributes of a config.
      hf_config: attributes of a Hugging Face config.
      **own: fields that no attribute has.
    """

    def pair(name):
        value = hf_config[name]
        size = (value, value) if isinstance(value, int) else tuple(value)
        if len(size) != 2:
            raise InputError(f"{name} is {value!r}; it must be a number, or two: height and width")
        return size

    stack, named = read_attributes(names, hf_config)
    sizes = {name: pair(name) for name in ("image_size", "patch_size")}
    return ViTConfig(TransformerConfig(**stack), **named | sizes | own)


def config_to_hf(config: ViTConfig) -> dict:
    """Returns the attributes of the Hugging Face `ViTConfig` that equals a config of ours.

    Raises:
      InputError: if there is none.
    """
    return write("vit", ATTRIBUTES, config)


def write(model_type: str, names: Mapping[str, str], config: ViTConfig, **own: Any) -> dict:
    """Returns the attributes of a Hugging Face config: the inverse of `read`."""
    config = replace(config, pooler_features=config.pooler_features or config.stack.features)
    written = attributes(names, config)
    check_written(model_type, config, read(names, written, **own))
    return {"model_type": model_type} | written


def attributes(names: Mapping[str, str], config: ViTConfig) -> dict:
    """Returns the values of a config of ours by Hugging Face's names; squares by one number."""
    values = write_attributes(names, config)
    for name in ("image_size", "patch_size"):  # some of Hugging Face's own code takes squares by one number only
        height, width = values[name]
        values[name] = height if height == width else [height, width]
    return values


def embeddings(config: ViTConfig) -> list[Entry]:
    """Returns Hugging Face's names for the parameters in front of the blocks, and for the last norm."""
    D, N = config.stack.features, config.num_tokens
    kernel = (D, config.num_channels, *config.patch_size)
    return [
        Entry("embeddings.cls_token", "encoder/class_token", shape=(1, 1, D)),
        Entry("embeddings.position_embeddings", "encoder/position/embedding", shape=(1, N, D)),
        Entry("embeddings.patch_embeddings.projection.weight", "encoder/patch/kernel", transpose=True, shape=kernel),
        Entry("embeddings.patch_embeddings.projection.bias", "encoder/patch/bias"),
        *norm("layernorm", "encoder/norm"),
    ]


def attention(module: str, layer: str, config: ViTConfig) -> list[Entry]:
    """Returns Hugging Face's names for the attention of a block."""
    bias = config.stack.qkv_bias
    return [
        *linear(f"{module}.attention.attention.query", f"{layer}/attention/query", bias=bias),
        *linear(f"{module}.attention.attention.key", f"{layer}/attention/key", bias=bias),
        *linear(f"{module}.attention.attention.value", f"{layer}/attention/value", bias=bias),
        *linear(f"{module}.attention.output.dense", f"{layer}/attention/output"),
    ]


NEW_ATTENTION = (
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
)
"""Newer names of the modules of attention, see `Table.renamed`."""


def table(
    config: ViTConfig,
    base: str = "ViTModel",
    prefix: str = "vit.",
    heads: tuple[str, ...] = ("classifier",),
) -> Table:
    """Returns Hugging Face's names for our parameters.

    Args:
      config: sizes of the model.
      base: Hugging Face's class without a head.
      prefix: of the names of the base model in models with a head.
      heads: names of the layers that classify, the same as ours.
    """
    entries = [*embeddings(config), *linear("pooler.dense", "pooler")]
    for name in heads:
        entries += linear(name, name)
    if config.distilled:
        shape = (1, 1, config.stack.features)
        entries.append(Entry("embeddings.distillation_token", "encoder/distillation_token", shape=shape))
    for i in range(config.stack.num_layers):
        module, layer = f"encoder.layer.{i}", f"encoder/blocks/block_{i}"
        entries += [
            *norm(f"{module}.layernorm_before", f"{layer}/norm_1"),
            *attention(module, layer, config),
            *norm(f"{module}.layernorm_after", f"{layer}/norm_2"),
            *linear(f"{module}.intermediate.dense", f"{layer}/mlp/up"),
            *linear(f"{module}.output.dense", f"{layer}/mlp/down"),
        ]
    return Table(
        entries=tuple(entries),
        base=base,
        prefix=prefix,
        heads=(*(f"{name}." for name in heads), "decoder."),
        unused=(r"embeddings\.mask_token", r"decoder\..*"),  # of the model that predicts masked patches
        renamed=(
            ("encoder.layer.", "layers."),
            *NEW_ATTENTION,
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
        ),
    )
