"""Weights in and out of Hugging Face's layout, strictly: every tensor is accounted for, by name and by shape."""

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np

from prism_jax import adapter_files, hub, images, lora
from prism_jax.errors import InputError
from prism_jax.forward import init_params, params_shapes
from prism_jax.models.families import FAMILIES, architecture_of, family_of
from prism_jax.models.hugging_face import Entry, Table, give, refuse_tensors

HINTS = {
    "classifier": " (give an adapter that holds one with --adapter, or train one with train.finetune and score its run)",
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
    """

    model: nn.Module
    params: Any
    folder: Path | None = None


def load(
    kind: type[nn.Module],
    source: str,
    *,
    revision: str | None = None,
    adapter: str | Path | None = None,
    num_labels: int | None = None,
    num_tokens: int | None = None,
    fresh: Iterable[str] = (),
    seed: int = 0,
    compute_dtype: str = "float32",
) -> Pretrained:
    """A model of class `kind` with pretrained weights.

    Args:
      kind: for instance `BertForSequenceClassification`.
      source: see `hub.resolve`.
      revision: branch, tag or commit of a hub id.
      adapter: a folder in PEFT's layout, see `adapter_files.load`. Its adapters are folded into the weights; the modules that it
        holds whole stand in for those of the source, which need not have them.
      num_labels: classes of the head, where they are not those of the adapter, or else of the source's config.
      num_tokens: N of the sequences to come, to refuse a model that can't take them before its weights are read.
      fresh: parts of the model (`"classifier"`) that are drawn at random instead of read; all of them, and no file with
        weights is needed.
      seed: for `fresh`.
      compute_dtype: "float32" or "bfloat16", see `TransformerConfig`.

    Raises:
      InputError: if files or tensors are missing, unknown or of another shape, or the config has values that are not
        implemented; all are listed.
      AssetError: if an asset can't be had.
    """
    folder = hub.resolve(source, revision)
    hf_config = hub.read_config(folder, FAMILIES)
    family = FAMILIES[hf_config["model_type"]]
    if family is not family_of(kind):
        raise InputError(f"{source!r} holds a {hf_config['model_type']} model, which {kind.__name__} is not")
    if adapter is not None and num_labels is None:
        num_labels = adapter_files.num_labels(Path(adapter).expanduser())
    config = family.config_from_hf(hf_config, num_labels)
    config = replace(config, stack=replace(config.stack, compute_dtype=compute_dtype))
    model = kind(config)
    if num_tokens is not None:
        model.check(num_tokens)
    shapes, fresh = params_shapes(model), tuple(fresh)
    if unknown := set(fresh) - set(shapes):
        raise InputError(f"{kind.__name__} has no parameters {', '.join(sorted(unknown))}; it has {', '.join(shapes)}")
    scratch = set(fresh) == set(shapes)
    tensors = (
        {}
        if scratch
        else hub.read_tensors(folder, Path(source).name if hub.is_pickle(Path(source).expanduser()) else None)
    )
    brought = adapter_files.read(Path(adapter).expanduser(), model) if adapter is not None else {}
    params = flatten(import_params(tensors, family.table(config), _without(shapes, brought), fresh=fresh))
    if fresh:
        params = flatten(init_params(model, jax.random.key(seed))) | params
    params = unflatten(params | brought)
    return Pretrained(model, lora.merge(params) if brought else params, folder)


def flatten(params: Any) -> dict[str, Any]:
    """Parameters by path: `encoder/blocks/block_0/mlp/up/kernel`."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def unflatten(params: Mapping[str, Any]) -> Any:
    """The other way of `flatten`."""
    return flax.traverse_util.unflatten_dict(params, sep="/")


def _without(params: Any, paths: Iterable[str]) -> Any:
    """The tree without what stands at `paths`."""
    flat, gone = flatten(params), set(paths)
    return unflatten({path: x for path, x in flat.items() if path not in gone})


def _normalise(tensors: Mapping[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """Today's names of the base model: without the head models' prefix, without TensorFlow's gamma and beta."""

    def name(old):
        new = old.removeprefix(table.prefix)
        return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", new))

    return {name(old): tensor for old, tensor in tensors.items()}


def import_params(tensors: Mapping[str, np.ndarray], table: Table, shapes: Any, *, fresh: tuple[str, ...] = ()) -> Any:
    """Parameters from tensors under Hugging Face names.

    Args:
      tensors: by name.
      table: the family's names.
      shapes: the tree of our parameters, as shapes.
      fresh: first parts of the paths of parameters that are not to be read.

    Raises:
      InputError: listing every tensor that is missing, unknown or of another shape.
    """
    tensors = _normalise(tensors, table)
    wanted = flatten(shapes)
    params, wrong = {}, {}
    for entry in table.entries:
        if entry.ours not in wanted or entry.ours.split("/")[0] in fresh:
            continue
        shape = wanted[entry.ours].shape
        hint = HINTS.get(entry.ours.split("/")[0], "")
        if entry.theirs not in tensors:
            wrong[entry.theirs] = f"{entry.theirs} is missing{hint}"
        elif tensors[entry.theirs].shape != entry.their_shape(shape):
            wrong[entry.theirs] = (
                f"{entry.theirs} has shape {tensors[entry.theirs].shape}, not {entry.their_shape(shape)}{hint}"
            )
        else:
            params[entry.ours] = entry.take(tensors[entry.theirs], shape).astype(np.float32)
    known = {entry.theirs for entry in table.entries}
    wrong |= {
        name: f"{name} is unknown"
        for name in tensors
        if name not in known and not any(re.fullmatch(p, name) for p in table.unused)
    }
    refuse_tensors("the weights don't fit the model", list(wrong.values()))
    return unflatten(params)


def export_tensors(params: Any, table: Table) -> dict[str, np.ndarray]:
    """Tensors under Hugging Face names, without a prefix, from (some of) our parameters."""
    flat = {name: np.asarray(value) for name, value in flatten(params).items()}
    entries: dict[str, list[Entry]] = {}
    for entry in table.entries:
        if entry.ours in flat:
            entries.setdefault(entry.theirs, []).append(entry)
    return {name: give(pieces, flat) for name, pieces in entries.items()}


def export(pretrained: Pretrained, folder: Path, label_names: Sequence[str] = ()) -> None:
    """Writes a folder that `transformers.AutoModel...from_pretrained` opens.

    Args:
      pretrained: the model. Tokenizer, image processor and what else its config says come from its own folder.
      folder: new or empty.
      label_names: of the classes.

    Raises:
      InputError: if there is something in the folder, or a parameter has no name in Hugging Face's library: an adapter, or one
        of an own class.
    """
    model, source = pretrained.model, pretrained.folder
    check_empty(folder)
    family, architecture = family_of(type(model)), architecture_of(type(model))
    table = family.table(model.config)
    if lora.has_adapters(pretrained.params):
        raise InputError(
            "the parameters have adapters; fold them in with lora.merge, or write these alone with adapter_files.save"
        )
    table.check_named(flatten(pretrained.params))
    tensors = export_tensors(jax.device_get(pretrained.params), table)
    tensors = {table.full_name(name, architecture): x for name, x in tensors.items()}
    content = hub.read_json(source / "config.json") if source else {}
    content |= family.config_to_hf(model.config)
    content |= {"architectures": [architecture], "dtype": "float32"}
    content.pop("torch_dtype", None)  # older than dtype, and maybe not float32
    num_labels = getattr(model.config, "num_labels", None)
    if num_labels and (label_names or num_labels != len(content.get("id2label", ()))):
        names = label_names or [f"LABEL_{i}" for i in range(num_labels)]
        for old in ("num_labels", "_num_labels", "problem_type"):  # transformers would let them win
            content.pop(old, None)
        content |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    folder.mkdir(parents=True, exist_ok=True)
    for path in hub.companions(source) if source else ():
        shutil.copyfile(path, folder / path.name)
    if (folder / images.SETTINGS).is_file() and hasattr(model.config, "image_size"):  # maybe not the source's
        images.load_processor(folder, model.config.image_size).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    hub.write_file(folder / hub.WEIGHTS, tensors)


def check_empty(folder: Path) -> None:
    """Raises InputError if there is something in a folder to be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; choose another folder")
