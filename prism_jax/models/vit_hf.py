"""Hugging Face's config and tensor names for ViT."""

from prism_jax.errors import InputError
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.config import TransformerConfig
from prism_jax.models.hf_names import (
    ANY,
    Entry,
    Table,
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

    def pair(name):
        value = hf_config[name]
        size = (value, value) if isinstance(value, int) else tuple(value)
        if len(size) != 2:
            raise InputError(f"{name} is {value!r}; it must be a number, or two: height and width")
        return size

    stack, own = read_attributes(ATTRIBUTES, hf_config)
    sizes = {name: pair(name) for name in ("image_size", "patch_size")}
    return ViTConfig(TransformerConfig(**stack), **own | sizes, num_labels=num_labels or len(hf_config["id2label"]))


def config_to_hf(config: ViTConfig) -> dict:
    """Returns the attributes of the Hugging Face `ViTConfig` that equals a config of ours."""

    def number(size):  # some of Hugging Face's own code takes squares by one number only
        return size[0] if size[0] == size[1] else list(size)

    return (
        {"model_type": "vit"}
        | write_attributes(ATTRIBUTES, config)
        | {"image_size": number(config.image_size), "patch_size": number(config.patch_size)}
        | {"pooler_output_size": config.pooler_features or config.stack.features}
    )


def table(config: ViTConfig) -> Table:
    """Returns Hugging Face's names for our parameters."""
    D, N, qkv_bias = config.stack.features, config.num_tokens, config.stack.qkv_bias
    kernel = (D, config.num_channels, *config.patch_size)
    entries = [
        Entry("embeddings.cls_token", "encoder/class_token", shape=(1, 1, D)),
        Entry("embeddings.position_embeddings", "encoder/position/embedding", shape=(1, N, D)),
        Entry("embeddings.patch_embeddings.projection.weight", "encoder/patch/kernel", transpose=True, shape=kernel),
        Entry("embeddings.patch_embeddings.projection.bias", "encoder/patch/bias"),
        *norm("layernorm", "encoder/norm"),
        *linear("pooler.dense", "pooler"),
        *linear("classifier", "classifier"),
    ]
    for i in range(config.stack.num_layers):
        module, layer = f"encoder.layer.{i}", f"encoder/blocks/block_{i}"
        entries += [
            *norm(f"{module}.layernorm_before", f"{layer}/norm_1"),
            *linear(f"{module}.attention.attention.query", f"{layer}/attention/query", bias=qkv_bias),
            *linear(f"{module}.attention.attention.key", f"{layer}/attention/key", bias=qkv_bias),
            *linear(f"{module}.attention.attention.value", f"{layer}/attention/value", bias=qkv_bias),
            *linear(f"{module}.attention.output.dense", f"{layer}/attention/output"),
            *norm(f"{module}.layernorm_after", f"{layer}/norm_2"),
            *linear(f"{module}.intermediate.dense", f"{layer}/mlp/up"),
            *linear(f"{module}.output.dense", f"{layer}/mlp/down"),
        ]
    return Table(
        entries=tuple(entries),
        base="ViTModel",
        prefix="vit.",
        heads=("classifier.", "decoder."),
        unused=(r"embeddings\.mask_token", r"decoder\..*"),  # of the model that predicts masked patches
        renamed=(
            ("encoder.layer.", "layers."),
            ("attention.attention.query", "attention.q_proj"),
            ("attention.attention.key", "attention.k_proj"),
            ("attention.attention.value", "attention.v_proj"),
            ("attention.output.dense", "attention.o_proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
        ),
    )
