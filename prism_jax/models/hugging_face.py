"""What the families say of Hugging Face: which config values they implement, and the names of their weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from prism_jax.errors import InputError

ANY = object()
"""An attribute of which every value is implemented."""

HARMLESS = {
    "architectures", "bos_token_id", "dtype", "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label",
    "label2id", "output_attentions", "output_hidden_states", "output_past", "pad_token_id",
    "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
    "problem_type", "return_dict", "sep_token_id", "task_specific_params", "torch_dtype", "transformers_version", "use_cache", "_name_or_path",
    "_attn_implementation_autoset", "_num_labels", "keys_to_ignore_at_inference", "n_special", "num_labels",
    "predict_special_tokens", "torchscript", "use_bfloat16", "_commit_hash", "attn_implementation", "_attn_implementation", "tokenizer_class",
}  # fmt: skip
"""Attributes that don't change what a model computes here."""


def refuse_unsupported(hf_config: Mapping, supported: Mapping, kind: str | None = None) -> None:
    """Raises InputError, naming every attribute whose value is not implemented, unless there is none.

    `kind` names the config in the message, if it is not its `model_type`.
    """
    wrong = []
    for name, value in hf_config.items():
        if name in HARMLESS:
            continue
        allowed = supported.get(name)
        if allowed is ANY:
            continue
        if allowed is None:
            wrong.append(f"{name}={value!r} (an attribute that is not known)")
        elif not any((tuple(value) if isinstance(value, list | dict) else value) == one for one in allowed):
            wrong.append(f"{name}={value!r} (implemented: {', '.join(map(repr, sorted(allowed, key=str)))})")
    if wrong:
        raise InputError(
            f"this {kind or hf_config.get('model_type')} config asks for what is not implemented: {'; '.join(wrong)}"
        )


def refuse_tensors(what: str, wrong: Sequence[str]) -> None:
    """Raises InputError that lists what is wrong with tensors, the first 20, unless nothing is."""
    if wrong:
        more = f"; and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise InputError(f"{what}: {'; '.join(wrong[:20])}{more}")


def read_attributes(names: Mapping[str, str], hf_config: Mapping) -> tuple[dict, dict]:
    """The values of a config by our names: those of its stack, and its own.

    Args:
      names: ours by Hugging Face's, `stack.` before those of the stack.
      hf_config: what a Hugging Face config says.
    """
    stack: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for theirs, ours in names.items():
        place, _, name = ours.rpartition(".")
        (stack if place else own)[name] = hf_config[theirs]
    return stack, own


def write_attributes(names: Mapping[str, str], config: Any) -> dict:
    """The values of a config of ours by Hugging Face's names: the other way of `read_attributes`."""
    return {theirs: attrgetter(ours)(config) for theirs, ours in names.items()}


@dataclass(frozen=True)
class Entry:
    """One of our parameters, and where Hugging Face keeps it.

    Attributes:
      theirs: name of their tensor.
      ours: path of our parameter.
      transpose: whether one is the transpose of the other.
      column: `(i, n)`: ours is the i-th of n equal pieces of the last axis of theirs.
      shape: of their tensor, where it has more axes than ours.
    """

    theirs: str
    ours: str
    transpose: bool = False
    column: tuple[int, int] = (0, 1)
    shape: tuple[int, ...] | None = None

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of their tensor, from that of our parameter."""
        flat = self._flat(shape)
        return self.shape or (*flat[:-1], flat[-1] * self.column[1])

    def take(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Our parameter, of shape `shape`, from their tensor."""
        flat, (i, n) = self._flat(shape), self.column
        piece = np.split(tensor.reshape(*flat[:-1], flat[-1] * n), n, axis=-1)[i]
        return piece.T if self.transpose else piece

    def _flat(self, shape):
        return shape[::-1] if self.transpose else shape


def give(entries: Sequence[Entry], params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Their tensor, from all of its entries and our parameters."""
    pieces = [params[entry.ours].T if entry.transpose else params[entry.ours] for entry in entries]
    tensor = np.concatenate(pieces, axis=-1)
    return np.ascontiguousarray(tensor.reshape(entries[0].shape or tensor.shape))


@dataclass(frozen=True)
class Table:
    """The tensors of a family.

    Attributes:
      entries: the tensors of every head of this family that we implement; the pieces of one tensor in their order.
      base: Hugging Face's class without a head.
      prefix: what models with a head put before the names of the base model.
      heads: how the names of heads begin, which have no prefix.
      unused: patterns of known tensors that no model of ours has: buffers, tied copies, heads that we lack.
      renamed: pieces of names, and what transformers writes for them today in the names of modules, one after the other.
    """

    entries: tuple[Entry, ...]
    base: str
    prefix: str
    heads: tuple[str, ...]
    unused: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()

    def full_name(self, name: str, architecture: str) -> str:
        """The name of a tensor or module in Hugging Face's class `architecture`."""
        return name if architecture == self.base or name.startswith(self.heads) else self.prefix + name

    def module_name(self, name: str) -> str:
        """What transformers calls a module today, whose tensors may lie under an older name."""
        for old, new in self.renamed:
            name = name.replace(old, new)
        return name

    def check_named(self, ours: Iterable[str]) -> None:
        """Raises InputError if one of our parameters has no tensor."""
        known = {entry.ours for entry in self.entries}
        if own := [path for path in ours if path not in known]:
            raise InputError(
                f"Hugging Face's library has no name for {', '.join(own)}, which would be lost; keep the run, and open it with the "
                "config file that defines its class"
            )


def linear(theirs: str, ours: str, *, bias: bool = True) -> tuple[Entry, ...]:
    """`torch.nn.Linear` keeps its weight as (out, in), Flax its kernel as (in, out)."""
    kernel = Entry(f"{theirs}.weight", f"{ours}/kernel", transpose=True)
    return (kernel, Entry(f"{theirs}.bias", f"{ours}/bias")) if bias else (kernel,)


def norm(theirs: str, ours: str) -> tuple[Entry, Entry]:
    return Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")
