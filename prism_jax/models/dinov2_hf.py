"""Hugging Face's config and tensor names for DINOv2."""

from dataclasses import replace

from prism_jax.errors import InputError
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.models import vit_hf
from prism_jax.models.hf_names import ANY, Entry, Table, check_written, linear, norm, refuse_unsupported
from prism_jax.models.vit import ViTConfig

ATTRIBUTES = {
    "num_hidden_layers": "stack.num_layers",
    "hidden_size": "stack.features",
    "num_attention_heads": "stack.num_heads",
    "hidden_act": "stack.activation",
    "layer_norm_eps": "stack.norm_eps",
    "qkv_bias": "stack.qkv_bias",
    "attention_probs_dropout_prob": "stack.attention_dropout",
    "initializer_range": "stack.init_scale",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "num_channels": "num_channels",
}
"""Our fields by the attributes of a Hugging Face Dinov2Config. `mlp_ratio` gives one more."""

SUPPORTED = dict.fromkeys(ATTRIBUTES, ANY) | {
    "model_type": {"dinov2"},
    "hidden_act": set(ACTIVATIONS),
    "qkv_bias": {True, False},
    "mlp_ratio": ANY,
    "hidden_dropout_prob": {0},  # Hugging Face's blocks have other places for it than ours
    "drop_path_rate": {0},
    "use_swiglu_ffn": {False},
    "layerscale_value": ANY,  # of fresh weights; the file has the trained ones
    "use_mask_token": ANY,  # of pretraining
    "apply_layernorm": ANY,  # of a backbone, as the next four
    "reshape_hidden_states": ANY,
    "stage_names": ANY,
    "out_features": ANY,
    "out_indices": ANY,
    "chunk_size_feed_forward": {0},
    "is_encoder_decoder": {False},
    "pruned_heads": {None, ()},
}
"""Values of a Hugging Face Dinov2Config that are implemented, by attribute."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> ViTConfig:
    """Returns our config, from the attributes of a Hugging Face `Dinov2Config`.

    Args:
      hf_config: `Dinov2Config.to_dict()`.
      num_labels: C, classes of the head; None for those of the checkpoint.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(hf_config, SUPPORTED)
    return replace(_read(hf_config), num_labels=num_labels or len(hf_config["id2label"]))


def _read(hf_config: dict) -> ViTConfig:
    width = int(hf_config["hidden_size"] * hf_config["mlp_ratio"])
    names = ATTRIBUTES | {"intermediate_size": "stack.mlp_features"}
    config = vit_hf.read(names, hf_config | {"intermediate_size": width})
    rows, columns = config.grid
    if rows != columns:
        raise InputError(
            f"Hugging Face's dinov2 reads every position table as a square of patches, but image_size gives {rows} x "
            f"{columns}; give the size of a square, and choose another by vit.with_image_size"
        )
    return replace(config, stack=replace(config.stack, layer_scale=True))


def config_to_hf(config: ViTConfig) -> dict:
    """Returns the attributes of the Hugging Face `Dinov2Config` that equals a config of ours.

    Raises:
      InputError: if there is none.
    """
    stack = config.stack
    if stack.mlp_features % stack.features:
        raise InputError(
            f"Hugging Face's dinov2 has an MLP of a multiple of {stack.features} features, but mlp_features is "
            f"{stack.mlp_features}; choose such a multiple, or keep the model as a run"
        )
    attributes = vit_hf.attributes(ATTRIBUTES, config) | {"mlp_ratio": stack.mlp_features // stack.features}
    check_written("dinov2", config, _read(attributes))
    return {"model_type": "dinov2", "use_mask_token": False} | attributes


def table(config: ViTConfig) -> Table:
    """Returns Hugging Face's names for our parameters."""
    entries = [*vit_hf.embeddings(config), *linear("classifier", "classifier")]
    for i in range(config.stack.num_layers):
        module, layer = f"encoder.layer.{i}", f"encoder/blocks/block_{i}"
        entries += [
            *norm(f"{module}.norm1", f"{layer}/norm_1"),
            *vit_hf.attention(module, layer, config),
            Entry(f"{module}.layer_scale1.lambda1", f"{layer}/scale_1"),
            *norm(f"{module}.norm2", f"{layer}/norm_2"),
            *linear(f"{module}.mlp.fc1", f"{layer}/mlp/up"),
            *linear(f"{module}.mlp.fc2", f"{layer}/mlp/down"),
            Entry(f"{module}.layer_scale2.lambda1", f"{layer}/scale_2"),
        ]
    return Table(
        entries=tuple(entries),
        base="Dinov2Model",
        prefix="dinov2.",
        heads=("classifier.",),
        unused=(r"embeddings\.mask_token",),
        renamed=vit_hf.NEW_ATTENTION,
    )
