"""Hugging Face's PyTorch ViT: tiny configs, images, and answers."""

import functools
from pathlib import Path

import jax
import numpy as np

import prism_jax as pj
from prism_jax import weights
from prism_jax.data import images

SHAPES = {
    "plain": {},
    "no_qkv_bias": {"qkv_bias": False, "hidden_size": 24, "num_attention_heads": 1, "hidden_act": "gelu_new"},
    "grey_relu_pooler": {"num_channels": 1, "pooler_act": "relu", "pooler_output_size": 12, "num_hidden_layers": 1},
    "oblong": {"image_size": [12, 21], "patch_size": [4, 3]},
    "cut_off": {"image_size": 19, "patch_size": [4, 5], "pooler_act": "gelu"},
}


WHOLE = pj.WholeSequence()


def hf_config(shape: str = "plain", **kwargs):
    from transformers import ViTConfig

    small = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "image_size": 12,
        "patch_size": 4,
        "initializer_range": 0.3,
        "num_labels": 5,
    }
    return ViTConfig(**small | SHAPES[shape] | kwargs)


def random_pixels(config, examples: int = 2) -> np.ndarray:
    size = config.image_size if isinstance(config.image_size, list) else [config.image_size] * 2
    return np.random.default_rng(0).normal(size=(examples, config.num_channels, *size)).astype(np.float32)


def run_hf(model, pixels: np.ndarray, **kwargs):
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(pixels), **kwargs)


@functools.cache
def program(model, exchange, run):
    """One compiled program for all tests of a model."""
    return jax.jit(lambda params, parts: pj.forward(model, params, parts, exchange, run))


ONE_DEVICE = pj.on_one_device(1)


def answer(model, params, pixels: np.ndarray, exchange=WHOLE, run=ONE_DEVICE):
    parts = run.split({"patches": images.patchify(pixels, model.config)})
    return program(model, exchange, run)(run.replicate(params), parts)


def run_ours(kind, folder: Path, pixels: np.ndarray, *how):
    loaded = weights.load(kind, str(folder))
    return answer(loaded.model, loaded.params, pixels, *how)
