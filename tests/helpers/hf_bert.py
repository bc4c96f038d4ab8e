"""Hugging Face's PyTorch BERT: tiny configs, batches, and answers."""

from pathlib import Path

import jax
import numpy as np

import prism_jax as pj
from prism_jax import weights

SHAPES = {
    "plain": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "hidden_act": "gelu",
    },
    "one_head": {
        "hidden_size": 24,
        "num_attention_heads": 1,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "hidden_act": "gelu_new",
    },
    "wide_heads": {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "hidden_act": "relu",
    },
}


NUM_TOKENS = 17


WHOLE = pj.WholeSequence()


def hf_config(shape: str, **kwargs):
    from transformers import BertConfig

    small = {"vocab_size": 99, "max_position_embeddings": 40, "initializer_range": 0.3, "num_labels": 5}
    return BertConfig(**small | SHAPES[shape] | kwargs)


def pair_batch(padding: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Pairs of sentences of several lengths, padded left or right."""
    rng = np.random.default_rng(seed)
    lengths = np.array([NUM_TOKENS, 11, 4, 1])
    place = np.arange(NUM_TOKENS)[None]
    mask = place < lengths[:, None] if padding == "right" else place >= NUM_TOKENS - lengths[:, None]
    ids = np.where(mask, rng.integers(1, 99, mask.shape), 0).astype(np.int32)
    types = np.where(mask, place > NUM_TOKENS // 2, 0).astype(np.int32)
    return {"ids": ids, "types": types, "mask": mask}


def save_hf_model(kind: str, config, folder: Path):
    """A Hugging Face model with random weights, norms and biases too, as a folder in the hub's layout."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def run_hf(model, batch: dict, **kwargs):
    import torch

    inputs = {
        "input_ids": batch["ids"],
        "token_type_ids": batch["types"],
        "attention_mask": batch["mask"].astype(np.int64),
    }
    with torch.no_grad():
        return model(**{name: torch.from_numpy(value.astype(np.int64)) for name, value in inputs.items()}, **kwargs)


def run_ours(kind, folder: Path, batch: dict, exchange: pj.Exchange = WHOLE, num_parts: int = 1):
    loaded = weights.load(kind, str(folder))
    run = pj.on_one_device(num_parts)
    return jax.jit(lambda params, parts: pj.forward(loaded.model, params, parts, exchange, run))(
        loaded.params, run.split(batch)
    )
