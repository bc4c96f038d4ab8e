"""The model families: embeddings, heads, and the table of Hugging Face names of each."""

from prism_jax.models import bert, gpt2, llama, qwen2, qwen3, vit

__all__ = ["bert", "gpt2", "llama", "qwen2", "qwen3", "vit"]
