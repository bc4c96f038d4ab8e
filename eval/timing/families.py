"""The models that `eval.speed` compares with PyTorch's, and the lengths that they can take. Imports no PyTorch."""

from collections.abc import Collection, Iterable

from prism_jax.errors import InputError
from prism_jax.models import bert, gpt2, llama, vit
from prism_jax.models.base import Model

MODELS: dict[str, Model] = {
    "vit": vit.ViTForImageClassification(vit.VIT_BASE),
    "bert": bert.BertForSequenceClassification(bert.BERT_BASE),
    "gpt2": gpt2.GPT2LMHeadModel(gpt2.GPT2),
    "llama": llama.LlamaForCausalLM(llama.SMOLLM2_135M),
}
CAUSAL = ("gpt2", "llama")
NEW_TOKENS = 32
"""Tokens that generation adds to a prompt."""


def check_length(families: Iterable[str], steps: Collection[str], num_tokens: int) -> None:
    """Raises InputError if a family of texts can't take N tokens, and the new ones of generation."""
    for family in families:
        if family == "vit":  # its length is the image's
            continue
        MODELS[family].check(num_tokens)
        most = MODELS[family].config.num_positions - NEW_TOKENS
        if "generation" in steps and num_tokens > most:
            raise InputError(
                f"num_tokens is {num_tokens}, which leaves no room for {NEW_TOKENS} new tokens in {family}; "
                f"choose {most} or fewer"
            )
