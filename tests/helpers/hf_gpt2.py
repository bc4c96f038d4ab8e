"""Hugging Face's PyTorch GPT-2: tiny configs, batches, and answers."""

import numpy as np

SHAPES = {
    "plain": {"n_embd": 32, "n_head": 4, "n_layer": 3},
    "one_head": {"n_embd": 24, "n_head": 1, "n_layer": 2, "n_inner": 40, "activation_function": "relu"},
    "wide_heads": {"n_embd": 48, "n_head": 3, "n_layer": 1, "activation_function": "gelu_pytorch_tanh"},
}


NUM_TOKENS = 17


def hf_config(shape: str, **kwargs):
    from transformers import GPT2Config

    small = {"vocab_size": 99, "n_positions": 128, "initializer_range": 0.3, "bos_token_id": 98, "eos_token_id": 98}
    return GPT2Config(**small | SHAPES[shape] | kwargs)


def token_batch(padding: str, num_tokens: int = NUM_TOKENS) -> dict[str, np.ndarray]:
    """Sequences of several lengths, padded left or right."""
    rng = np.random.default_rng(0)
    lengths = np.array([num_tokens, 11, 4, 1])
    place = np.arange(num_tokens)[None]
    mask = place < lengths[:, None] if padding == "right" else place >= num_tokens - lengths[:, None]
    return {"ids": np.where(mask, rng.integers(0, 98, mask.shape), 0).astype(np.int32), "mask": mask}


def run_hf(model, batch: dict, **kwargs):
    """With the positions that `generate` gives, which count real tokens."""
    import torch

    mask = torch.from_numpy(batch["mask"].astype(np.int64))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(
            torch.from_numpy(batch["ids"].astype(np.int64)), attention_mask=mask, position_ids=positions, **kwargs
        )
