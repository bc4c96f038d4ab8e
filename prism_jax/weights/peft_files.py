"""LoRA adapters in PEFT's layout: adapter_config.json and adapter_model.safetensors.

GPT-2's c_attn is one layer in PEFT and three layers here. On writing, the three adapters become one, exactly: its rank
is the sum of their ranks, A is stacked, and B is block diagonal. If the three share one A, as after reading such an
adapter, A is written once and the rank stays the same.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.layers.lora import NAMES, has_adapters
from prism_jax.models.base import Model
from prism_jax.models.hf_names import Entry, Table, give, one_name_each, refuse_tensors
from prism_jax.models.registry import architecture_of, family_of
from prism_jax.programs import params_shapes
from prism_jax.weights.peft_config import PeftConfig
from prism_jax.weights.strict import faults

WEIGHTS = "adapter_model.safetensors"
BASE = "base_model.model."
"""Prefix of all tensor names in PEFT's files."""

TASKS = {
    "BertForSequenceClassification": "SEQ_CLS",
    "BertForTokenClassification": "TOKEN_CLS",
    "DistilBertForSequenceClassification": "SEQ_CLS",
    "DistilBertForTokenClassification": "TOKEN_CLS",
    "GPT2LMHeadModel": "CAUSAL_LM",
    "LlamaForCausalLM": "CAUSAL_LM",
    "Qwen2ForCausalLM": "CAUSAL_LM",
    "Qwen3ForCausalLM": "CAUSAL_LM",
    "RobertaForTokenClassification": "TOKEN_CLS",
}
"""PEFT's task types by architecture. The other architectures have none."""


def save(
    folder: str | Path,
    model: Model,
    params: Any,
    *,
    base: str,
    whole: Sequence[str] = ("pooler", "classifier"),
    dtype: str = "float32",
    label_names: Sequence[str] = (),
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors for `peft.PeftModel.from_pretrained`.

    Modules have the names of current transformers versions (for ViT, 5.x names differ from those in its weight files).

    Args:
      folder: created if needed. An adapter in it is replaced.
      model: a model of the base model's class.
      params: parameters with adapters.
      base: source of the base model: a hub id or a folder.
      whole: layers of the head to save completely, if the model has them: those that were trained in addition to the
        adapters.
      dtype: type of the tensors, "float32" or "float16".
      label_names: names of the classes. The tensor file notes them in its metadata, since PEFT has no place for them.

    Raises:
      InputError: if there are no adapters, an argument is not allowed, or a parameter of a user's class has no Hugging
        Face name.
    """
    if dtype not in ("float32", "float16"):
        raise InputError(f"dtype is {dtype!r}; choose float32 or float16")
    if "encoder" in whole:
        raise InputError(
            "the encoder is not saved whole beside its adapters; choose layers of the head, such as classifier"
        )
    if not has_adapters(params):
        raise InputError(
            "the parameters have no adapters; add some with lora.add, or write the model with weights.export"
        )
    table, architecture = family_of(type(model)).hf.table(model.config), architecture_of(type(model))
    flat = {path: np.asarray(x) for path, x in flax.traverse_util.flatten_dict(jax.device_get(params), sep="/").items()}
    table.check_named(path for path in flat if path.rpartition("/")[2] not in NAMES)
    tensors: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[int, float]] = {}
    kept: set[str] = set()
    for module, entries in _dense_layers(table).items():
        pieces = [_a_b_scale(flat, entry) for entry in entries if entry.path in flat]
        if not any(a_DW.size for a_DW, _, _ in pieces):
            continue
        name = table.full_name(table.module_name(module), architecture)
        a_DW, b_WM, scale = _as_one(pieces)
        tensors |= {f"{name}.lora_A.weight": a_DW.T, f"{name}.lora_B.weight": b_WM.T}
        sizes[name] = (a_DW.shape[1], _number(np.float32(scale) * np.float32(a_DW.shape[1])))
    for entry in table.entries:
        if entry.path in flat and entry.path.split("/")[0] in whole:
            name = table.full_name(entry.hf_name, architecture)
            if (module := name.rpartition(".")[0]) in sizes:
                raise InputError(
                    f"{module} has an adapter and is to be saved whole; fold the adapter in with lora.merge"
                )
            tensors[name] = give([entry], flat)
            kept.add(module)
    (rank, alpha), _ = Counter(sizes.values()).most_common(1)[0]
    task = TASKS.get(architecture, "FEATURE_EXTRACTION" if architecture == table.base else None)
    if task in ("SEQ_CLS", "TOKEN_CLS") and "classifier" not in kept:
        task = None  # for these tasks, PEFT expects a classifier in the file
    config = PeftConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={name: r for name, (r, _) in sizes.items() if r != rank},
        alpha_pattern={name: a for name, (_, a) in sizes.items() if a != alpha},
        target_modules=sorted(sizes),
        modules_to_save=sorted(kept) or None,
    )
    fan_in_fan_out = not all(entry.transpose for entries in _dense_layers(table).values() for entry in entries)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config.write(folder, base, task, fan_in_fan_out=fan_in_fan_out)
    named = {BASE + name: np.ascontiguousarray(x, dtype) for name, x in tensors.items()}
    notes = {"label_names": json.dumps([*label_names])} if label_names else {}
    hub.write_file(folder / WEIGHTS, named, notes)


def load(folder: str | Path, model: Model, params: Any) -> Any:
    """Returns the parameters with the adapters and whole modules of a folder in PEFT's layout.

    Raises:
      InputError: if a file is missing, the config has unsupported values, or tensors are missing, unknown or of another
        shape. All are listed.
    """
    if has_adapters(params):
        raise InputError("the parameters have adapters already; fold them in with lora.merge first")
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return flax.traverse_util.unflatten_dict(flat | read(folder, model), sep="/")


def read(folder: str | Path, model: Model) -> dict[str, np.ndarray]:
    """Reads the parameters in a folder in PEFT's layout, by path: adapters and whole modules. Raises as `load`."""
    folder = Path(folder)
    config, file = PeftConfig.read(folder), hub.read_file(folder / WEIGHTS)
    table, architecture = family_of(type(model)).hf.table(model.config), architecture_of(type(model))
    shapes = {path: x.shape for path, x in flax.traverse_util.flatten_dict(params_shapes(model), sep="/").items()}
    names = one_name_each(file, partial(_stored, table))  # names in the file, by names in the table
    tensors = {name: file[named] for name, named in names.items()}
    adapters = _adapters(config, table, shapes, names)
    whole = [
        entry
        for entry in table.entries
        if entry.path in shapes and (entry.hf_name in tensors or config.is_whole(table, entry.hf_name))
    ]
    wanted = {name: shape for adapter in adapters for name, shape in adapter.tensor_shapes(shapes).items()}
    wanted |= {entry.hf_name: entry.hf_shape(shapes[entry.path]) for entry in whole}
    wrong = faults(wanted, tensors)
    apart = table.untied(tensors, architecture) + table.trained_apart(tensors, architecture)
    wrong |= {
        name: f"{name} is not the same as {original} any more, to which it is tied here" for name, original in apart
    }
    known = {entry.hf_name for entry in table.entries} | {tie.copy for tie in table.ties}
    known |= {f"{module}.{x}" for module in _dense_layers(table) for x in ("lora_A.weight", "lora_B.weight")}
    unknown = [f"{names[name]} is unknown" for name in names if name not in known and not table.is_unused(name)]
    refuse_tensors(f"the adapter {folder} doesn't fit {type(model).__name__}", [*unknown, *wrong.values()])
    arrays = {name: np.asarray(tensors[name], np.float32) for name in wanted}
    params = {path: x for adapter in adapters for path, x in adapter.params(arrays).items()}
    return params | {entry.path: entry.take(arrays[entry.hf_name], shapes[entry.path]) for entry in whole}


@dataclass(frozen=True)
class _Adapter:
    """An adapter in PEFT's layout, on a module that holds one or several of our layers side by side.

    Attributes:
      module: name of the module in the table.
      entries: table entries of our layers' kernels.
      rank: W, the rank.
      scale: factor of the adapter's output.
    """

    module: str
    entries: Sequence[Entry]
    rank: int
    scale: float

    def tensor_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of A and B by name, given those of our parameters."""
        D, M = shapes[self.entries[0].path]
        width = M * self.entries[0].column[1]
        return {f"{self.module}.lora_A.weight": (self.rank, D), f"{self.module}.lora_B.weight": (width, self.rank)}

    def params(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns our parameters by path, given the tensors by name."""
        a_DW, b_WM = arrays[f"{self.module}.lora_A.weight"].T, arrays[f"{self.module}.lora_B.weight"].T
        params = {}
        for entry in self.entries:
            (i, n), layer = entry.column, entry.path.removesuffix("kernel")
            params[f"{layer}lora_a"], params[f"{layer}lora_b"] = a_DW, np.split(b_WM, n, axis=1)[i]
            params[f"{layer}lora_scale"] = np.array(self.scale, np.float32)
        return params


def _adapters(
    config: PeftConfig, table: Table, shapes: Mapping[str, tuple[int, ...]], names: Mapping[str, str]
) -> list[_Adapter]:
    """Returns the adapters in a file, and those that the config requires.

    Args:
      config: the adapter's config.
      table: the family's name table.
      shapes: shapes of the model's parameters, by path.
      names: names of the file's tensors, by names in the table.
    """
    adapters = []
    for module, entries in _dense_layers(table).items():
        own_entries = [entry for entry in entries if entry.path in shapes]
        stored = next((names[x] for x in (f"{module}.lora_A.weight", f"{module}.lora_B.weight") if x in names), None)
        if not own_entries or (
            stored is None and not ("/blocks/" in own_entries[0].path and config.has_adapter(table, module))
        ):
            continue
        name = (stored or module).removeprefix(BASE).partition(".lora_")[0]
        adapters.append(_Adapter(module, own_entries, *config.rank_and_scale(name)))
    return adapters


def num_labels(folder: str | Path) -> int | None:
    """Returns C of the classifier in an adapter; None if it has no classifier."""
    tensors = hub.read_file(Path(folder) / WEIGHTS).items()
    ends = (".classifier.weight", ".classifier.out_proj.weight", ".cls_classifier.weight")
    return next((x.shape[0] for name, x in tensors if name.endswith(ends)), None)


def _dense_layers(table: Table) -> dict[str, list[Entry]]:
    """Returns the kernels of the dense layers by Hugging Face module. Pieces of one module keep their order."""
    layers: dict[str, list[Entry]] = {}
    for entry in table.entries:
        if entry.path.endswith("/kernel") and entry.shape is None:
            layers.setdefault(entry.hf_name.removesuffix(".weight"), []).append(entry)
    return layers


def _stored(table: Table, name: str) -> str:
    """Returns the table's name of a PEFT tensor: without prefixes, and with the module's name as in weight files."""
    module, lora, rest = name.removeprefix(BASE).partition(".lora_")
    return table.stored(f"{module}.weight").removesuffix("weight") + f"lora_{rest}" if lora else table.stored(module)


def _a_b_scale(flat: Mapping[str, np.ndarray], entry: Entry) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns A, B and scale of one of our layers; of rank 0 if it has no adapter."""
    layer = entry.path.removesuffix("kernel")
    if f"{layer}lora_a" not in flat:
        D, M = flat[entry.path].shape
        return np.zeros((D, 0), np.float32), np.zeros((0, M), np.float32), 0.0
    return flat[f"{layer}lora_a"], flat[f"{layer}lora_b"], float(flat[f"{layer}lora_scale"])


def _as_one(pieces: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> tuple[np.ndarray, np.ndarray, float]:
    """Merges the adapters of layers that read the same input and whose outputs are concatenated."""
    first_DW, scale = pieces[0][0], max(scale for *_, scale in pieces)
    scaled = [b_WM * np.float32(own_scale / scale) for _, b_WM, own_scale in pieces]
    if all(np.array_equal(a_DW, first_DW) for a_DW, *_ in pieces):
        return first_DW, np.concatenate(scaled, axis=1), scale
    blocks = [
        np.concatenate([b_WM if i == j else np.zeros((len(b_WM), other.shape[1])) for j, other in enumerate(scaled)], 1)
        for i, b_WM in enumerate(scaled)
    ]
    return np.concatenate([a_DW for a_DW, *_ in pieces], axis=1), np.concatenate(blocks), scale


def _number(x: np.float32) -> float | int:
    """Returns the shortest number that equals this float32."""
    value = float(str(x))
    return int(value) if value.is_integer() else value
