"""Weights in PyTorch pickles."""

from pathlib import Path

import numpy as np

from prism_jax.errors import InputError, one_line

PICKLES = (".bin", ".pt", ".pth")


def is_pickle(path: Path) -> bool:
    """Returns whether a file has the name of a PyTorch pickle."""
    return path.suffix in PICKLES and not path.is_dir()


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns all tensors of a PyTorch pickle, opened with `weights_only`. Needs PyTorch."""
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} is a pickle, which PyTorch must open; pip install torch, or give safetensors"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: (x.float() if x.is_floating_point() else x).numpy() for name, x in state.items()}
    except Exception as error:  # PyTorch may raise anything for a damaged file, or one with other objects
        raise InputError(f"{path} holds no plain PyTorch weights: {one_line(error)}; give safetensors") from error
