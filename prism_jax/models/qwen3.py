"""Qwen3 (arXiv 2505.09388), the dense models, equal to Hugging Face's: Llama's blocks, with norms of queries and
keys."""

from prism_jax.models.llama import LlamaForCausalLM, LlamaModel


class Qwen3Model(LlamaModel):
    """Every hidden state."""


class Qwen3ForCausalLM(LlamaForCausalLM):
    """Logits of the next token for every token, from the token table itself or from a layer of its own."""
