"""The model families: embeddings, heads, and the table of Hugging Face names of each."""

from prism_jax.models import bert, deit, dinov2, distilbert, gpt2, llama, qwen2, qwen3, roberta, vit
from prism_jax.models.registry import auto

__all__ = ["auto", "bert", "deit", "dinov2", "distilbert", "gpt2", "llama", "qwen2", "qwen3", "roberta", "vit"]
