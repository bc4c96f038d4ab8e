"""LoRA adapters in PEFT's layout: adapter_config.json and adapter_model.safetensors.

GPT-2's c_attn is one layer in PEFT and three of ours. Three adapters become one of the ranks' sum there, exactly: A
stacked, B block by block on the diagonal. Where the three have the same A, as after reading one of PEFT's, it is
written once and the rank stays.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import flax
import jax
import numpy as np

from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.forward import params_shapes
from prism_jax.layers.lora import has_adapters
from prism_jax.models.base import Model
from prism_jax.models.hf_names import ANY, Entry, Table, give, one_name_each, refuse_tensors, refuse_unsupported
from prism_jax.models.registry import architecture_of, family_of
from prism_jax.records import Count, Finite

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model.model."
"""What PEFT puts before every name."""

SUPPORTED = {
    "peft_type": {"LORA"},
    "bias": {"none"},
    "init_lora_weights": {True, False, "gaussian", "eva", "orthogonal"},  # others change the base weights as well
}
"""What these attributes of PEFT's config may be."""

HARMLESS = (
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "fan_in_fan_out",
    "inference_mode", "lora_alpha",
    "lora_dropout", "megatron_core", "modules_to_save", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision",
    "target_modules", "task_type", "use_rslora",
)  # fmt: skip
"""Attributes that are read, or that don't change what a model computes. Any other must be off: None, False or empty."""


class AdapterConfig(TypedDict, total=False):
    """What is read from PEFT's config."""

    r: Count
    lora_alpha: Finite
    rank_pattern: dict[str, Count] | None
    alpha_pattern: dict[str, Finite] | None
    target_modules: str | list[str] | None
    modules_to_save: list[str] | None
    use_rslora: bool | None


DEFAULTS: AdapterConfig = {"r": 8, "lora_alpha": 8}

TASKS = {
    "BertForSequenceClassification": "SEQ_CLS",
    "BertForTokenClassification": "TOKEN_CLS",
    "GPT2LMHeadModel": "CAUSAL_LM",
}
"""PEFT's task types by architecture; it has none for the others."""


def save(
    folder: Path,
    model: Model,
    params: Any,
    *,
    base: str,
    whole: Sequence[str] = ("pooler", "classifier"),
    dtype: str = "float32",
    label_names: Sequence[str] = (),
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors for `peft.PeftModel.from_pretrained`.

    Modules are named as in today's transformers (of ViT, 5.x names differ from those of its files).

    Args:
      folder: made if need be; an adapter in it is replaced.
      model: of the base model's class.
      params: with adapters.
      base: where the base model is had: a hub id or a folder.
      whole: parts of the head that are saved whole, where the model has them: what was trained beside the adapters.
      dtype: "float32" or "float16", of the tensors.
      label_names: of the classes, which the file with the tensors notes; PEFT has no place for them.

    Raises:
      InputError: if there are no adapters, an argument is not one of these, or a parameter of an own class has no name
        there.
    """
    if dtype not in ("float32", "float16"):
        raise InputError(f"dtype is {dtype!r}; choose float32 or float16")
    if "encoder" in whole:
        raise InputError(
            "the encoder is not saved whole beside its adapters; choose parts of the head, such as classifier"
        )
    if not has_adapters(params):
        raise InputError(
            "the parameters have no adapters; add some with lora.add, or write the model with weights.export"
        )
    table, architecture = family_of(type(model)).hf.table(model.config), architecture_of(type(model))
    flat = {path: np.asarray(x) for path, x in flax.traverse_util.flatten_dict(jax.device_get(params), sep="/").items()}
    table.check_named(path for path in flat if path.rpartition("/")[2] not in ("lora_a", "lora_b", "lora_scale"))
    tensors: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[int, float]] = {}
    kept: set[str] = set()
    for module, entries in _dense_layers(table).items():
        pieces = [_adapter(flat, entry) for entry in entries if entry.ours in flat]
        if not any(a_DR.size for a_DR, _, _ in pieces):
            continue
        name = table.full_name(table.module_name(module), architecture)
        a_DR, b_RM, scale = _as_one(pieces)
        tensors |= {f"{name}.lora_A.weight": a_DR.T, f"{name}.lora_B.weight": b_RM.T}
        sizes[name] = (a_DR.shape[1], _number(np.float32(scale) * np.float32(a_DR.shape[1])))
    for entry in table.entries:
        if entry.ours in flat and entry.ours.split("/")[0] in whole:
            name = table.full_name(entry.theirs, architecture)
            if (module := name.rpartition(".")[0]) not in sizes:
                tensors[name] = give([entry], flat)
                kept.add(module)
    (rank, alpha), _ = Counter(sizes.values()).most_common(1)[0]
    task = TASKS.get(architecture, "FEATURE_EXTRACTION" if architecture == table.base else None)
    if task in ("SEQ_CLS", "TOKEN_CLS") and "classifier" not in kept:
        task = None  # by these PEFT expects a classifier in the file
    content = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r for name, (r, _) in sizes.items() if r != rank},
        "alpha_pattern": {name: a for name, (_, a) in sizes.items() if a != alpha},
        "target_modules": sorted(sizes),
        "modules_to_save": sorted(kept) or None,
        "fan_in_fan_out": not all(entry.transpose for entries in _dense_layers(table).values() for entry in entries),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
    named = {BASE + name: np.ascontiguousarray(x, dtype) for name, x in tensors.items()}
    hub.write_file(folder / WEIGHTS, named, label_names)


def load(folder: Path | str, model: Model, params: Any) -> Any:
    """The parameters with the adapters of a folder in PEFT's layout, and the modules that it holds whole.

    Raises:
      InputError: if a file is missing, the config has values that are not implemented, or tensors are missing, unknown
        or of another shape; all are listed.
    """
    if has_adapters(params):
        raise InputError("the parameters have adapters already; fold them in with lora.merge first")
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return flax.traverse_util.unflatten_dict(flat | read(Path(folder), model), sep="/")


def read(folder: Path, model: Model) -> dict[str, np.ndarray]:
    """The parameters that a folder in PEFT's layout holds, by path: adapters and whole modules. Raises as `load`."""
    config, tensors = _read_config(folder), hub.read_file(folder / WEIGHTS)
    table, architecture = family_of(type(model)).hf.table(model.config), architecture_of(type(model))
    shapes = {path: x.shape for path, x in flax.traverse_util.flatten_dict(params_shapes(model), sep="/").items()}
    files = one_name_each(tensors, partial(_stored, table))  # the file's names by those of the table
    params: dict[str, np.ndarray] = {}
    wrong: dict[str, str] = {}
    known = {entry.theirs for entry in table.entries} | {tie.copy for tie in table.ties}

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in files:
            wrong[name] = f"{name} is missing"
        elif tensors[files[name]].shape != shape:
            wrong[name] = f"{name} has shape {tensors[files[name]].shape}, not {shape}"
        elif reason := hub.no_floats(tensors[files[name]]):
            wrong[name] = f"{name} {reason}"
        else:
            return np.asarray(tensors[files[name]], np.float32)
        return np.broadcast_to(np.float32(0), shape)  # of no size, whatever the config says

    for module, entries in _dense_layers(table).items():
        names = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        known |= set(names)
        here = [entry for entry in entries if entry.ours in shapes]
        there = next((files[name] for name in names if name in files), None)
        if not here or (there is None and not ("/blocks/" in here[0].ours and _is_target(config, table, module))):
            continue
        name = (there or module).removeprefix(BASE).partition(".lora_")[0]
        rank = _of_pattern(config.get("rank_pattern"), name, config["r"])
        alpha = _of_pattern(config.get("alpha_pattern"), name, config["lora_alpha"])
        D, M = shapes[here[0].ours]
        a_DR, b_RM = take(names[0], (rank, D)).T, take(names[1], (M * here[0].column[1], rank)).T
        scale = np.array(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), np.float32)
        for entry in here:
            (i, n), ours = entry.column, entry.ours.removesuffix("kernel")
            params |= {f"{ours}lora_a": a_DR, f"{ours}lora_b": np.split(b_RM, n, axis=1)[i], f"{ours}lora_scale": scale}
    for entry in table.entries:
        if (shape := shapes.get(entry.ours)) and (entry.theirs in files or _is_whole(config, table, entry.theirs)):
            params[entry.ours] = entry.take(take(entry.theirs, entry.their_shape(shape)), shape)
    stored = {new: tensors[old] for new, old in files.items()}
    apart = table.untied(stored, architecture) + table.trained_apart(stored, architecture)
    wrong |= {one: f"{one} is not the same as {other} any more, to which it is tied here" for one, other in apart}
    unknown = [f"{files[name]} is unknown" for name in files if name not in known and not table.is_unused(name)]
    refuse_tensors(f"the adapter {folder} doesn't fit {type(model).__name__}", [*unknown, *wrong.values()])
    return params


def num_labels(folder: Path) -> int | None:
    """C of the classifier that an adapter holds; None if it holds none."""
    tensors = hub.read_file(folder / WEIGHTS).items()
    return next((x.shape[0] for name, x in tensors if name.endswith(".classifier.weight")), None)


def _read_config(folder: Path) -> AdapterConfig:
    if not (folder / CONFIG).is_file():
        raise InputError(
            f"no {CONFIG} in {folder}; give a folder that adapter_files.save or PEFT's save_pretrained wrote"
        )
    content = hub.read_json(folder / CONFIG, AdapterConfig)
    off = {name: {None, False, ()} for name in content}
    refuse_unsupported(content, off | SUPPORTED | dict.fromkeys(HARMLESS, ANY), kind="LoRA")
    return {**DEFAULTS, **content}


def _dense_layers(table: Table) -> dict[str, list[Entry]]:
    """The kernels of the dense layers by the module that theirs is in; the pieces of one in their order."""
    layers: dict[str, list[Entry]] = {}
    for entry in table.entries:
        if entry.ours.endswith("/kernel") and entry.shape is None:
            layers.setdefault(entry.theirs.removesuffix(".weight"), []).append(entry)
    return layers


def _stored(table: Table, name: str) -> str:
    """The name of PEFT's tensor as the table has it: without prefixes, and with the module's name in files."""
    module, lora, rest = name.removeprefix(BASE).partition(".lora_")
    return table.stored(f"{module}.weight").removesuffix("weight") + f"lora_{rest}" if lora else table.stored(module)


def _is_target(config: AdapterConfig, table: Table, module: str) -> bool:
    """Whether the config says that a module has an adapter, by the rules of PEFT."""
    targets = config.get("target_modules") or ()
    names = [prefix + name for prefix in ("", table.prefix) for name in (module, table.module_name(module))]
    if isinstance(targets, str):
        return targets == "all-linear" or any(_matches(targets, name) for name in names)
    return any(f".{name}".endswith(f".{target}") for target in targets for name in names)


def _is_whole(config: AdapterConfig, table: Table, theirs: str) -> bool:
    """Whether the config says that a tensor's module is saved whole."""
    return any(f".{name}." in f".{table.prefix}{theirs}" for name in config.get("modules_to_save") or ())


def _of_pattern(pattern: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """The first value of a pattern whose key matches the end of a module's name, as PEFT reads it."""
    return next((value for key, value in (pattern or {}).items() if _matches(rf"(.*\.)?({key})", name)), default)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise InputError(f"{CONFIG} has the pattern {pattern!r}, which is none: {error}") from error


def _adapter(flat: Mapping[str, np.ndarray], entry: Entry) -> tuple[np.ndarray, np.ndarray, float]:
    """A, B and scale of one of our layers; of rank 0 where it has no adapter."""
    layer = entry.ours.removesuffix("kernel")
    if f"{layer}lora_a" not in flat:
        D, M = flat[entry.ours].shape
        return np.zeros((D, 0), np.float32), np.zeros((0, M), np.float32), 0.0
    return flat[f"{layer}lora_a"], flat[f"{layer}lora_b"], float(flat[f"{layer}lora_scale"])


def _as_one(pieces: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> tuple[np.ndarray, np.ndarray, float]:
    """One adapter of layers that read the same input and lie side by side in the output."""
    first_DR, scale = pieces[0][0], max(scale for *_, scale in pieces)
    scaled = [b_RM * np.float32(one / scale) for _, b_RM, one in pieces]
    if all(np.array_equal(a_DR, first_DR) for a_DR, *_ in pieces):
        return first_DR, np.concatenate(scaled, axis=1), scale
    rows = [
        np.concatenate([b_RM if i == j else np.zeros((len(b_RM), other.shape[1])) for j, other in enumerate(scaled)], 1)
        for i, b_RM in enumerate(scaled)
    ]
    return np.concatenate([a_DR for a_DR, *_ in pieces], axis=1), np.concatenate(rows), scale


def _number(x: np.float32) -> float | int:
    """The shortest number that is this float32."""
    value = float(str(x))
    return int(value) if value.is_integer() else value
