"""Qwen2 and Qwen2.5 (arXiv 2407.10671), equal to Hugging Face's: Llama's blocks, with biases of queries, keys and
values."""

from prism_jax.models.llama import LlamaForCausalLM, LlamaModel


class Qwen2Model(LlamaModel):
    """Every hidden state."""


class Qwen2ForCausalLM(LlamaForCausalLM):
    """Logits of the next token for every token, from the token table itself or from a layer of its own."""
