"""Hugging Face's PyTorch Llama, Qwen2 and Qwen3: tiny configs of every kind that we claim."""

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SHAPES = {
    "grouped": ("Llama", {"num_key_value_heads": 2, "rms_norm_eps": 1e-3}),
    "one_kv_head": (
        "Llama",
        {
            "num_key_value_heads": 1,
            "head_dim": 12,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0},
        },
    ),
    "llama3": ("Llama", {"num_key_value_heads": 4, "rope_parameters": LLAMA3, "hidden_act": "gelu_pytorch_tanh"}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
}
"""Hugging Face's name of the family, and values of its config, by a name of ours."""


def hf_config(shape: str, **kwargs):
    import transformers

    family, values = SHAPES[shape]
    small = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.3}
    small |= {"bos_token_id": 98, "eos_token_id": 98, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
    return getattr(transformers, f"{family}Config")(**small | values | kwargs)
