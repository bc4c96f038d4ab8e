"""What the families say of Hugging Face: which config values they implement, and the names of their weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from prism_jax.errors import InputError

ANY = object()
"""An attribute of which every value is implemented."""

HARMLESS = {
    "architectures", "bos_token_id", "dtype", "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label",
    "label2id", "output_attentions", "output_hidden_states", "output_past", "pad_token_id",
    "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
    "problem_type", "return_dict", "sep_token_id", "torch_dtype", "transformers_version", "use_cache", "_name_or_path",
    "_attn_implementation_autoset", "_commit_hash", "attn_implementation", "_attn_implementation", "tokenizer_class",
}  # fmt: skip
"""Attributes that don't change what an encoder computes."""


def refuse_unsupported(hf_config: Mapping, supported: Mapping) -> None:
    """Raises ValueError, naming every attribute whose value is not implemented, unless there is none."""
    wrong = []
    for name, value in hf_config.items():
        if name in HARMLESS:
            continue
        allowed = supported.get(name)
        if allowed is ANY:
            continue
        if allowed is None:
            wrong.append(f"{name}={value!r} (an attribute that is not known)")
        elif (tuple(value) if isinstance(value, list | dict) else value) not in allowed:
            wrong.append(f"{name}={value!r} (implemented: {', '.join(map(repr, sorted(allowed, key=str)))})")
    if wrong:
        raise InputError(
            f"this {hf_config.get('model_type')} config asks for what is not implemented: {'; '.join(wrong)}"
        )


@dataclass(frozen=True)
class Entry:
    """One tensor: its Hugging Face name, the path of our parameter, and whether one is the transpose of the other."""

    theirs: str
    ours: str
    transpose: bool = False


@dataclass(frozen=True)
class Table:
    """The tensors of a family.

    Attributes:
      entries: the tensors of every head of this family that we implement.
      prefix: what models with a head put before the names of the base model.
      unused: patterns of known tensors that no model of ours has: buffers, heads that we lack.
    """

    entries: tuple[Entry, ...]
    prefix: str
    unused: tuple[str, ...]


def linear(theirs: str, ours: str) -> tuple[Entry, Entry]:
    """`torch.nn.Linear` keeps its weight as (out, in), Flax its kernel as (in, out)."""
    return Entry(f"{theirs}.weight", f"{ours}/kernel", transpose=True), Entry(f"{theirs}.bias", f"{ours}/bias")


def norm(theirs: str, ours: str) -> tuple[Entry, Entry]:
    return Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")
