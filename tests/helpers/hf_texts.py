"""Hugging Face's PyTorch models of BERT's kind: tiny configs, batches, and answers."""

import numpy as np

FAMILIES = {
    "roberta": (
        "Roberta",
        {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "type_vocab_size": 1,
            "pad_token_id": 3,
            "hidden_act": "relu",
        },
    ),
    "distilbert": ("DistilBert", {"dim": 16, "n_heads": 2, "hidden_dim": 24, "n_layers": 2}),
}
"""Hugging Face's name of the family, and values of its config."""

HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM")

NUM_TOKENS = 13

CLASS_ID = 2


def hf_config(family: str, **kwargs):
    import transformers

    name, values = FAMILIES[family]
    small = {"vocab_size": 99, "max_position_embeddings": 40, "initializer_range": 0.3, "num_labels": 5}
    return getattr(transformers, f"{name}Config")(**small | values | kwargs)


def text_batch(config, padding: str) -> dict[str, np.ndarray]:
    """Texts of several lengths, padded left or right with the id of padding. Each begins with the class token."""
    rng = np.random.default_rng(0)
    lengths = np.array([NUM_TOKENS, 8, 4, 1])
    place = np.arange(NUM_TOKENS)[None]
    mask = place < lengths[:, None] if padding == "right" else place >= NUM_TOKENS - lengths[:, None]
    ids = np.where(mask, rng.integers(4, config.vocab_size, mask.shape), config.pad_token_id)
    ids[np.arange(len(ids)), mask.argmax(1)] = CLASS_ID
    return {"ids": ids.astype(np.int32), "mask": mask}


def run_hf(model, batch: dict, **kwargs):
    import torch

    ids, mask = (torch.from_numpy(batch[name].astype(np.int64)) for name in ("ids", "mask"))
    with torch.no_grad():
        return model(ids, attention_mask=mask, **kwargs)
