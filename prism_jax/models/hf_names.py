"""Tools for Hugging Face's names: config attributes that a family implements, and tensors of its weights."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np

from prism_jax.errors import InputError

ANY = object()
"""Stands for an attribute whose every value is implemented."""

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
"""Attributes that don't change the answer of a model here."""

OFF: tuple[Any, ...] = (None, False, "", [], (), {})
"""Values by which a config turns a feature off."""


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
        elif not any((tuple(value) if isinstance(value, list | dict) else value) == known for known in allowed):
            wrong.append(f"{name}={value!r} (implemented: {', '.join(map(repr, sorted(allowed, key=str)))})")
    if wrong:
        raise InputError(
            f"this {kind or hf_config.get('model_type')} config asks for what is not implemented: {'; '.join(wrong)}"
        )


def refuse_tensors(heading: str, messages: Sequence[str]) -> None:
    """Raises InputError with a heading and the first 20 messages about tensors, unless there are none."""
    if messages:
        more = f"; and {len(messages) - 20} more" if len(messages) > 20 else ""
        raise InputError(f"{heading}: {'; '.join(messages[:20])}{more}")


def read_attributes(names: Mapping[str, str], hf_config: Mapping) -> tuple[dict, dict]:
    """Returns the values of a config by our names: those of its stack, and the others.

    Args:
      names: ours by Hugging Face's. Names of the stack begin with `stack.`.
      hf_config: attributes of a Hugging Face config.
    """
    stack: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for hf_name, our_name in names.items():
        place, _, name = our_name.rpartition(".")
        (stack if place else own)[name] = hf_config[hf_name]
    return stack, own


def write_attributes(names: Mapping[str, str], config: Any) -> dict:
    """Returns the values of a config of ours by Hugging Face's names: the inverse of `read_attributes`."""
    return {hf_name: attrgetter(our_name)(config) for hf_name, our_name in names.items()}


NOT_WRITTEN = ("stack", "compute_dtype", "dropout", "class_id", "num_labels")
"""Fields that are not among the attributes: no property of the weights, or written apart."""


def check_written(model_type: str, config: Any, as_read: Any) -> None:
    """Raises InputError if a family of Hugging Face's lacks a config of ours, so that it would read another one.

    Args:
      model_type: the family.
      config: ours.
      as_read: the one that our names of attributes give back.
    """

    def fields(config: Any) -> dict[str, Any]:
        stack = config.stack
        stack = replace(stack, num_kv_heads=stack.kv_heads, head_features=stack.head_width)
        return vars(config) | vars(stack)

    given, read = fields(config), fields(as_read)
    if lost := [name for name in given if given[name] != read[name] and name not in NOT_WRITTEN]:
        raise InputError(
            f"Hugging Face's {model_type} has no other value of {', '.join(lost)}; choose another family, or keep the "
            "model as a run"
        )


@dataclass(frozen=True)
class Entry:
    """One of our parameters, and the tensor of Hugging Face's that holds it.

    Attributes:
      hf_name: name of the tensor.
      path: of our parameter, with slashes.
      transpose: whether the tensor is the transpose of the parameter.
      column: `(i, n)`: the parameter is the i-th of n equal pieces of the tensor's last axis.
      shape: of the tensor, where it has more axes than the parameter.
    """

    hf_name: str
    path: str
    transpose: bool = False
    column: tuple[int, int] = (0, 1)
    shape: tuple[int, ...] | None = None

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the tensor, from that of our parameter."""
        flat = self._flat(shape)
        return self.shape or (*flat[:-1], flat[-1] * self.column[1])

    def take(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns our parameter, of shape `shape`, from the tensor."""
        flat, (i, n) = self._flat(shape), self.column
        piece = np.split(tensor.reshape(*flat[:-1], flat[-1] * n), n, axis=-1)[i]
        return piece.T if self.transpose else piece

    def _flat(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[::-1] if self.transpose else shape


def give(entries: Sequence[Entry], params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns a tensor of Hugging Face's, from all of its entries and our parameters by path."""
    pieces = [params[entry.path].T if entry.transpose else params[entry.path] for entry in entries]
    tensor = np.concatenate(pieces, axis=-1)
    return np.ascontiguousarray(tensor.reshape(entries[0].shape or tensor.shape))


def one_name_each(names: Iterable[str], stored: Callable[[str], str]) -> dict[str, str]:
    """Returns the names in a file by the table's. Raises InputError if two are names of one tensor."""
    file_names: dict[str, str] = {}
    for name in names:
        if (other := file_names.setdefault(stored(name), name)) != name:
            raise InputError(f"{other} and {name} are two names of one tensor; leave one of them out of the file")
    return file_names


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
      entries: tensors of every head of this family that we implement. Pieces of one tensor stand in their order.
      base: Hugging Face's class without a head.
      prefix: stands before the names of the base model in models with a head.
      heads: beginnings of the names of heads, which have no prefix.
      unused: patterns of known tensors that no model of ours has: buffers, and heads that we lack.
      renamed: pieces of names, and transformers' newer words for them in names of modules. Files may have either.
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
        """Returns the name of a tensor or module in Hugging Face's class `architecture`."""
        return name if architecture == self.base or name.startswith(self.heads) else self.prefix + name

    def module_name(self, name: str) -> str:
        """Returns transformers' newest name of a module. Its tensors may have an older one."""
        for old, new in self.renamed:
            name = name.replace(old, new)
        return name

    @cached_property
    def _of_today(self) -> dict[str, str]:
        return {self.module_name(entry.hf_name): entry.hf_name for entry in self.entries}

    def stored(self, name: str) -> str:
        """Returns the table's name of a tensor in a file, which may have the prefix, newer names of modules,
        or TensorFlow's gamma and beta."""
        name = name.removeprefix(self.prefix)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name))
        return self._of_today.get(name, name)

    def by_name(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the tensors of a file that a model of ours may have, by the table's names.
        Raises InputError if there are two of one name."""
        names = one_name_each([name for name in tensors if not self.is_unused(self.stored(name))], self.stored)
        return {new: tensors[old] for new, old in names.items()}

    def untied(self, tensors: Mapping[str, Any], architecture: str) -> list[tuple[str, str]]:
        """Returns names and copies of tied tensors that differ, where Hugging Face's class `architecture` uses both."""
        return [
            (tie.name, tie.copy)
            for tie in self.ties
            if architecture == tie.architecture
            and {tie.name, tie.copy} <= tensors.keys()
            and not np.array_equal(np.asarray(tensors[tie.name]), np.asarray(tensors[tie.copy]))
        ]

    def trained_apart(self, tensors: Mapping[str, Any], architecture: str) -> list[tuple[str, str]]:
        """Returns pairs of tied tensors of which an adapter holds only the first.

        PEFT copies a whole module, with ties inside it. A tie to another module breaks: that module keeps its weights.
        """
        pairs = [(tie.name, tie.copy) for tie in self.ties if architecture == tie.architecture]
        return [
            (held, missing)
            for name, copy in pairs
            for held, missing in ((name, copy), (copy, name))
            if held in tensors and missing not in tensors and not missing.startswith(held.rpartition(".")[0] + ".")
        ]

    def without_copies(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the tensors with the copies of ties under their first name, or left out if that is there too."""
        copies = {tie.copy: tie.name for tie in self.ties}
        return {copies[name]: x for name, x in tensors.items() if name in copies} | {
            name: x for name, x in tensors.items() if name not in copies
        }

    def is_unused(self, name: str) -> bool:
        """Returns whether a tensor is known, but no model of ours has it."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)

    def check_named(self, paths: Iterable[str]) -> None:
        """Raises InputError if a parameter of ours, by its path, has no tensor."""
        known = {entry.path for entry in self.entries}
        if own := [path for path in paths if path not in known]:
            raise InputError(
                f"Hugging Face's library has no name for {', '.join(own)}, which would be lost; keep the run, "
                "and open it with the config file that defines its class"
            )


def linear(module: str, layer: str, *, bias: bool = True) -> tuple[Entry, ...]:
    """Returns the entries of a dense layer. `torch.nn.Linear` has a weight (out, in), Flax a kernel (in, out)."""
    kernel = Entry(f"{module}.weight", f"{layer}/kernel", transpose=True)
    return (kernel, Entry(f"{module}.bias", f"{layer}/bias")) if bias else (kernel,)


def norm(module: str, layer: str) -> tuple[Entry, Entry]:
    """Returns the entries of a layer norm."""
    return Entry(f"{module}.weight", f"{layer}/scale"), Entry(f"{module}.bias", f"{layer}/bias")
