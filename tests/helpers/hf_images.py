"""Hugging Face's PyTorch models of ViT's kind: tiny configs and images. They are run as ViT is, see `hf_vit`."""

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 12, "patch_size": 4}
FAMILIES = {
    "deit": ("DeiT", SIZES | {"intermediate_size": 24, "pooler_act": "relu"}, "ForImageClassificationWithTeacher"),
    "dinov2": ("Dinov2", SIZES | {"mlp_ratio": 2, "layerscale_value": 0.7}, "ForImageClassification"),
}
"""Hugging Face's name of the family, values of its config, and the head of its golden file."""


def hf_config(family: str, **kwargs):
    import transformers

    name, values, _ = FAMILIES[family]
    small = {"initializer_range": 0.3, "num_channels": 1, "num_labels": 5}
    return getattr(transformers, f"{name}Config")(**small | values | kwargs)
