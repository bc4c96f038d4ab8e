"""What the families say of Hugging Face: which config values they implement, and the names of their weights."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    "problem_type", "return_dict", "sep_token_id", "task_specific_params", "torch_dtype", "transformers_version",
    "use_cache", "_name_or_path",
    "_attn_implementation_autoset", "_num_labels", "keys_to_ignore_at_inference", "n_special", "num_labels",
    "predict_special_tokens", "torchscript", "use_bfloat16", "_commit_hash", "attn_implementation",
    "_attn_implementation", "tokenizer_class",
}  # fmt: skip
"""Attributes that don't change what a model computes here."""

OFF: tuple[Any, ...] = (None, False, "", [], (), {})
"""Values by which an attribute asks for nothing: what old configs say of features that they don't use."""


def refuse_unsupported(hf_config: Mapping, supported: Mapping, kind: str | None = None) -> None:
    """Raises InputError, naming every attribute whose value is not implemented, unless there is none.

    An attribute that `supported` lacks must be off.
    `kind` names the config in the message, if it is not its `model_type`.
    """
    wrong = []
    for name, value in hf_config.items():
        if name in HARMLESS:
            continue
        allowed = supported.get(name)
        if allowed is ANY:
            continue
        if allowed is None and value in OFF:
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


def one_name_each(names: Iterable[str], stored: Callable[[str], str]) -> dict[str, str]:
    """The names in a file, by the table's. Raises InputError if two are names of one tensor."""
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(stored(name), name)) != name:
            raise InputError(f"{other} and {name} are two names of one tensor; leave one of them out of the file")
    return found


@dataclass(frozen=True)
class Tie:
    """A tensor that files may hold under two names. A head that computes with both must find them equal.

    Attributes:
      name: of the tensor in the table.
      copy: its other name.
      architecture: Hugging Face's class with that head.
    """

    name: str
    copy: str
    architecture: str


@dataclass(frozen=True)
class Table:
    """The tensors of a family.

    Attributes:
      entries: the tensors of every head of this family that we implement; the pieces of one tensor in their order.
      base: Hugging Face's class without a head.
      prefix: what models with a head put before the names of the base model.
      heads: how the names of heads begin, which have no prefix.
      unused: patterns of known tensors that no model of ours has: buffers and heads that we lack.
      renamed: pieces of names, and what transformers calls them today in the names of modules, one after the other;
        files may have either.
      ties: tensors with a second name.
    """

    entries: tuple[Entry, ...]
    base: str
    prefix: str
    heads: tuple[str, ...]
    unused: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    ties: tuple[Tie, ...] = ()

    def full_name(self, name: str, architecture: str) -> str:
        """The name of a tensor or module in Hugging Face's class `architecture`."""
        return name if architecture == self.base or name.startswith(self.heads) else self.prefix + name

    def module_name(self, name: str) -> str:
        """What transformers calls a module today, whose tensors may lie under an older name."""
        for old, new in self.renamed:
            name = name.replace(old, new)
        return name

    @cached_property
    def _of_today(self) -> dict[str, str]:
        return {self.module_name(entry.theirs): entry.theirs for entry in self.entries}

    def stored(self, name: str) -> str:
        """The table's name of a tensor of a file: without the head models' prefix, the module names of today,
        or TensorFlow's gamma and beta."""
        name = name.removeprefix(self.prefix)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name))
        return self._of_today.get(name, name)

    def by_name(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of a file that are of use, by the table's names.
        Raises InputError if there are two of one name."""
        names = one_name_each([name for name in tensors if not self.is_unused(self.stored(name))], self.stored)
        return {new: tensors[old] for new, old in names.items()}

    def untied(self, tensors: Mapping[str, Any], architecture: str) -> list[tuple[str, str]]:
        """The names and copies of tensors that are there twice and differ,
        where Hugging Face's class `architecture` uses both."""
        return [
            (tie.name, tie.copy)
            for tie in self.ties
            if architecture == tie.architecture
            and {tie.name, tie.copy} <= tensors.keys()
            and not np.array_equal(np.asarray(tensors[tie.name]), np.asarray(tensors[tie.copy]))
        ]

    def trained_apart(self, tensors: Mapping[str, Any], architecture: str) -> list[tuple[str, str]]:
        """The names in an adapter of tensors that it holds whole without their copies, and these,
        or the other way round.

        PEFT copies a module with all that is tied inside; what is tied to another module stays there as it was.
        """
        pairs = [(tie.name, tie.copy) for tie in self.ties if architecture == tie.architecture]
        return [
            (here, gone)
            for name, copy in pairs
            for here, gone in ((name, copy), (copy, name))
            if here in tensors and gone not in tensors and not gone.startswith(here.rpartition(".")[0] + ".")
        ]

    def without_copies(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors by the table's names, what is there under its second name alone under its first."""
        copies = {tie.copy: tie.name for tie in self.ties}
        return {copies[name]: x for name, x in tensors.items() if name in copies} | {
            name: x for name, x in tensors.items() if name not in copies
        }

    def is_unused(self, name: str) -> bool:
        """Whether a tensor is known, and of no use to a model of ours."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)

    def check_named(self, ours: Iterable[str]) -> None:
        """Raises InputError if one of our parameters has no tensor."""
        known = {entry.ours for entry in self.entries}
        if own := [path for path in ours if path not in known]:
            raise InputError(
                f"Hugging Face's library has no name for {', '.join(own)}, which would be lost; keep the run, "
                "and open it with the config file that defines its class"
            )


def linear(theirs: str, ours: str, *, bias: bool = True) -> tuple[Entry, ...]:
    """`torch.nn.Linear` keeps its weight as (out, in), Flax its kernel as (in, out)."""
    kernel = Entry(f"{theirs}.weight", f"{ours}/kernel", transpose=True)
    return (kernel, Entry(f"{theirs}.bias", f"{ours}/bias")) if bias else (kernel,)


def norm(theirs: str, ours: str) -> tuple[Entry, Entry]:
    return Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")
