"""Weights in and out of Hugging Face's layout, strictly: every tensor is accounted for, by name and by shape."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prism_jax import records
from prism_jax.assets import hub
from prism_jax.data import images, labels, text
from prism_jax.errors import InputError
from prism_jax.folders import check_empty, new_folder
from prism_jax.forward import init_params, params_shapes
from prism_jax.layers import lora
from prism_jax.models.base import Model
from prism_jax.models.bert import BertWithClassTokens
from prism_jax.models.hf_names import Entry, Table, give, refuse_tensors
from prism_jax.models.registry import FAMILIES, architecture_of, family_of
from prism_jax.seeds import check_seed
from prism_jax.trees import flatten, unflatten
from prism_jax.weights import peft_files
from prism_jax.weights.strict import faults

HINTS = {
    "classifier": " (give an adapter that holds one with --adapter, or train one with train.finetune and score its "
    "run)",
    "pooler": " (choose a model class without a pooler, or draw one with fresh=['pooler'])",
}
"""What to do where the source lacks a part of the model, or has another one."""


@dataclass(frozen=True)
class Pretrained:
    """A model with its weights.

    Attributes:
      model: the Linen module.
      params: its parameters, float32.
      folder: where config, weights and tokenizer lie; None for a model that was made here.
      label_names: of the classes of its head, in their order; LABEL_0 and so on where they are not known.
    """

    model: Model
    params: Any
    folder: Path | None = None
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What `load` reads: weights that fit, as far as the config and the names, shapes and types of the tensors tell.

    Attributes:
      pretrained: the model, still without parameters, its classes as the source names them.
      tensors: by the names of the family's table, see `fitting`.
      brought: what the adapter holds, by our paths.
    """

    pretrained: Pretrained
    tensors: Mapping[str, tuple[Entry, Any]]
    brought: Mapping[str, np.ndarray]


def load(
    kind: type[Model],
    source: str,
    *,
    revision: str | None = None,
    adapter: str | Path | None = None,
    num_labels: int | None = None,
    label_names: Sequence[str] = (),
    num_tokens: int | None = None,
    fresh: Iterable[str] = (),
    seed: int = 0,
    compute_dtype: str = "float32",
    reader: hub.Reader = hub.read_tensors,
) -> Pretrained:
    """A model of class `kind` with pretrained weights.

    Args:
      kind: for instance `BertForSequenceClassification`.
      source: see `hub.resolve`.
      revision: branch, tag or commit of a hub id.
      adapter: a folder in PEFT's layout, see `adapter_files.load`. Its adapters are folded into the weights; the
        modules that it holds whole stand in for those of the source, which need not have them.
      num_labels: classes of the head, where they are not those of the adapter, or else of the source's config.
      label_names: of the classes, in the order that is wanted. A head whose own names are known is brought into it.
      num_tokens: N of the sequences to come, to refuse a model that can't take them before its weights are read.
      fresh: parts of the model (`"classifier"`) that are drawn at random instead of read; all of them, and no file with
        weights is needed.
      seed: for `fresh`, 0 to 2^32 - 1.
      compute_dtype: "float32" or "bfloat16", see `TransformerConfig`.
      reader: reads the tensors of the source's folder.

    Raises:
      InputError: if files or tensors are missing, unknown, of another shape or no floating point numbers, the config
        has values that are not implemented (all are listed), or the head has other classes than `label_names`.
      AssetError: if an asset can't be had.
    """
    check_seed(seed)
    fresh = tuple(fresh)
    found = find(
        kind,
        source,
        revision=revision,
        adapter=adapter,
        num_labels=num_labels,
        num_tokens=num_tokens,
        fresh=fresh,
        compute_dtype=compute_dtype,
        reader=reader,
    )
    model, names = found.pretrained.model, found.pretrained.label_names
    order = np.array(labels.order(names, label_names)) if names and label_names else None
    shapes = flatten(params_shapes(model))
    params = {
        ours: entry.take(np.asarray(tensor), shapes[ours].shape).astype(np.float32, copy=False)
        for ours, (entry, tensor) in found.tensors.items()
    }
    if fresh:
        params = flatten(init_params(model, jax.random.key(seed))) | params
    params = unflatten({**params, **found.brought})
    if found.brought:
        params = lora.merge(params)
    if order is None:
        return replace(found.pretrained, params=params)
    if (order != np.arange(len(order))).any():
        params = params | {"classifier": jax.tree.map(lambda x: x[..., order], params["classifier"])}
    return replace(found.pretrained, params=params, label_names=tuple(label_names))


def find(
    kind: type[Model],
    source: str,
    *,
    revision: str | None = None,
    adapter: str | Path | None = None,
    num_labels: int | None = None,
    num_tokens: int | None = None,
    fresh: Iterable[str] = (),
    compute_dtype: str = "float32",
    reader: hub.Reader = hub.read_tensors,
) -> Found:
    """What `load` reads, with the same arguments: refuses what can be seen to be wrong before the weights are read.

    Of a hub id the config is fetched and checked before the rest.
    """
    hf_config = hub.read_config(folder := hub.resolve(source, revision, ("config.json",)), FAMILIES)
    family = FAMILIES[hf_config["model_type"]]
    if family is not family_of(kind):
        raise InputError(f"{source!r} holds a {hf_config['model_type']} model, which {kind.__name__} is not")
    beside = Path(adapter).expanduser() if adapter is not None else None
    if beside and num_labels is None:
        num_labels = peft_files.num_labels(beside)
    config = family.hf.config_from_hf(hf_config, num_labels)
    config = replace(config, stack=replace(config.stack, compute_dtype=compute_dtype))
    records.check_fields(config, f"{folder}/config.json: ")
    if issubclass(kind, BertWithClassTokens):
        config = replace(config, class_id=text.class_id(hub.resolve(source, folder.name), config.vocab_size))
    model = kind(config)
    if num_tokens is not None:
        model.check(num_tokens)
    shapes, drawn = params_shapes(model), set(fresh)
    if unknown := drawn - set(shapes):
        raise InputError(f"{kind.__name__} has no parameters {', '.join(sorted(unknown))}; it has {', '.join(shapes)}")
    folder = hub.resolve(source, folder.name)  # of the same commit
    pickle = Path(source).name if hub.is_pickle(Path(source).expanduser()) else None
    tensors = {} if drawn == set(shapes) else reader(folder, pickle)
    brought = peft_files.read(beside, model) if beside else {}
    wanted = {path: x for path, x in flatten(shapes).items() if path.split("/")[0] not in drawn and path not in brought}
    names: tuple[str, ...] = ()
    if "classifier/kernel" in wanted:
        names = labels.names_in_config(
            hf_config["id2label"], hub.read_json(folder / "config.json", hub.HubConfig).get("label2id")
        )
    elif "classifier" in shapes:
        noted = hub.read_label_names(beside / peft_files.WEIGHTS) if beside and "classifier/kernel" in brought else ()
        names = noted or labels.placeholder_names(config.num_labels)
    fitting = fit(tensors, family.hf.table(config), wanted, architecture_of(kind))
    return Found(Pretrained(model, None, folder, names), fitting, brought)


def fit(
    tensors: hub.Tensors, table: Table, wanted: Mapping[str, Any], architecture: str
) -> dict[str, tuple[Entry, hub.Stored | np.ndarray]]:
    """Where each of our parameters is found among tensors under Hugging Face names.

    Args:
      tensors: by name.
      table: the family's names.
      wanted: shapes of our parameters by path.
      architecture: Hugging Face's class for the model.

    Raises:
      InputError: listing every tensor that is missing, unknown, of another shape, no floating point number, or other
        than its tied copy.
    """
    named = table.by_name(tensors)
    wrong = {
        copy: f"{copy} differs from {name}, to which it is tied here"
        for name, copy in table.untied(named, architecture)
    }
    found = table.without_copies(named)
    entries = [entry for entry in table.entries if entry.path in wanted]
    shapes = {entry.hf_name: entry.hf_shape(wanted[entry.path].shape) for entry in entries}
    hints = {entry.hf_name: HINTS.get(entry.path.split("/")[0], "") for entry in entries}
    wrong |= {name: message + hints[name] for name, message in faults(shapes, found).items()}
    known = {entry.hf_name for entry in table.entries}
    wrong |= {name: f"{name} is unknown" for name in found if name not in known}
    refuse_tensors("the weights don't fit the model", list(wrong.values()))
    return {entry.path: (entry, found[entry.hf_name]) for entry in entries}


def export_tensors(params: Any, table: Table) -> dict[str, np.ndarray]:
    """Tensors under Hugging Face names, without a prefix, from (some of) our parameters."""
    flat = {name: np.asarray(value) for name, value in flatten(params).items()}
    entries: dict[str, list[Entry]] = {}
    for entry in table.entries:
        if entry.path in flat:
            entries.setdefault(entry.hf_name, []).append(entry)
    return {name: give(pieces, flat) for name, pieces in entries.items()}


def export(pretrained: Pretrained, folder: Path, label_names: Sequence[str] = ()) -> None:
    """Writes a folder that `transformers.AutoModel...from_pretrained` opens.

    Args:
      pretrained: the model. Tokenizer, image processor and what else its config says come from its own folder.
      folder: new or empty.
      label_names: of the classes, where they are not those of `pretrained`.

    Raises:
      InputError: if there is something in the folder, or a parameter has no name in Hugging Face's library: an adapter,
        or one of an own class.
    """
    model, source = pretrained.model, pretrained.folder
    check_empty(folder)
    family, architecture = family_of(type(model)), architecture_of(type(model))
    table = family.hf.table(model.config)
    if lora.has_adapters(pretrained.params):
        raise InputError(
            "the parameters have adapters; fold them in with lora.merge, or write these alone with adapter_files.save"
        )
    table.check_named(flatten(pretrained.params))
    tensors = export_tensors(jax.device_get(pretrained.params), table)
    tensors = {table.full_name(name, architecture): x for name, x in tensors.items()}
    content: dict[str, Any] = {**hub.read_json(source / "config.json", hub.HubConfig)} if source else {}
    content |= family.hf.config_to_hf(model.config)
    content |= {"architectures": [architecture], "dtype": "float32"}
    content.pop("torch_dtype", None)  # older than dtype, and maybe not float32
    num_labels = getattr(model.config, "num_labels", None)
    names = label_names or pretrained.label_names
    theirs = labels.names_in_config(content.get("id2label"), None)
    if num_labels and (num_labels != len(theirs) or (names and tuple(names) != theirs)):
        names = names if len(names) == num_labels else labels.placeholder_names(num_labels)
        for old in ("num_labels", "_num_labels", "problem_type"):  # transformers would let them win
            content.pop(old, None)
        content |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    with new_folder(folder) as partial:
        for path in hub.companions(source) if source else ():
            shutil.copyfile(path, partial / path.name)
        if (partial / images.SETTINGS).is_file() and hasattr(model.config, "image_size"):  # maybe not the source's
            images.load_processor(partial, model.config.image_size).save_pretrained(partial)
        (partial / "config.json").write_text(json.dumps(content, indent=2) + "\n")
        hub.write_file(partial / hub.WEIGHTS, tensors)
