"""The configs of a Llama model in a GGUF file (the format of llama.cpp), as files in the hub's layout have them."""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
from msgspec import Meta

from prism_jax import records
from prism_jax.records import Count, Natural

Scale = Annotated[float, Meta(gt=0, le=1e12)]

ATTRIBUTES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
"""Attributes of Hugging Face's LlamaConfig by their name in the file, after `llama.`."""

Header = TypedDict(
    "Header",
    {
        "llama.block_count": Count,
        "llama.context_length": Count,
        "llama.embedding_length": Count,
        "llama.feed_forward_length": Count,
        "llama.attention.head_count": Count,
        "llama.attention.layer_norm_rms_epsilon": Scale,
        "llama.attention.head_count_kv": NotRequired[Count],
        "llama.attention.key_length": NotRequired[Count],
        "llama.rope.freq_base": NotRequired[Scale],
        "llama.vocab_size": NotRequired[Count],
        "split.count": NotRequired[Natural],
    },
)
"""Types of the values that are read."""

OFF = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "rope.scaling.type": "none",
    "rope.scale_linear": 1,
    "rope.scaling.factor": 1,
    "tensor_data_layout": "Meta AI original pth",
}
"""Attributes that are not implemented, with the value that turns each off. Others must be absent."""


def config(metadata: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """Returns the attributes of Hugging Face's LlamaConfig, under the names that files on the hub have.

    Args:
      metadata: all values of the file, by key.
      tied: whether the head is the token table.

    Raises:
      ValueError: if an attribute is missing, not implemented, or does not fit the others.
    """
    records.checked(metadata, Header)
    if (pieces := metadata.get("split.count", 1)) > 1:
        raise ValueError(f"it is one of {pieces} pieces, which llama-gguf-split --merge joins")
    own = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    read_or_checked = {"rope.dimension_count", "attention.value_length"}
    odd = {key: own[key] for key in own.keys() - ATTRIBUTES.keys() - read_or_checked if own[key] != OFF.get(key)}
    if odd:
        raise ValueError(f"not implemented are {', '.join(f'llama.{key}={odd[key]!r}' for key in sorted(odd))}")
    heads = own["attention.head_count"]
    defaults = {
        "attention.head_count_kv": heads,
        "attention.key_length": own["embedding_length"] // heads,
        "rope.freq_base": 10_000.0,
        "vocab_size": len(metadata.get("tokenizer.ggml.tokens", ())),
    }
    result: dict[str, Any] = {hf_name: own.get(key, defaults.get(key)) for key, hf_name in ATTRIBUTES.items()}
    for parts, whole in (("num_attention_heads", "hidden_size"), ("num_key_value_heads", "num_attention_heads")):
        if result[whole] % result[parts]:
            raise ValueError(f"{whole}, {result[whole]}, is no multiple of {parts}, {result[parts]}")
    for key in ("rope.dimension_count", "attention.value_length"):
        if own.get(key, result["head_dim"]) != result["head_dim"]:
            raise ValueError(f"llama.{key} is {own[key]}, but heads have {result['head_dim']} features")
    if result["head_dim"] % 2:
        raise ValueError(f"heads have {result['head_dim']} features, which are no pairs to rotate")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        **result,
        "rms_norm_eps": float(str(np.float32(result["rms_norm_eps"]))),
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
    }


def generation_config(metadata: Mapping[str, Any], tokens: Mapping[str, int | None]) -> dict[str, Any]:
    """Returns the generation config: a text ends at the end of text, of a turn, or of a message."""
    ends = (tokens["eos_token_id"], *(metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom")))
    unique = [*dict.fromkeys(end for end in ends if end is not None)]
    stops = {**tokens, "eos_token_id": unique[0] if len(unique) == 1 else unique or None}
    return {name: value for name, value in stops.items() if value is not None}
