"""Reads and writes weights in Hugging Face's layout. Every tensor must match by name and shape."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prism_jax import records
from prism_jax.assets import hub, pickles
from prism_jax.data import images, labels, text
from prism_jax.errors import InputError
from prism_jax.folders import check_empty, new_folder
from prism_jax.layers import lora
from prism_jax.models.base import Model
from prism_jax.models.class_tokens import WithClassTokens
from prism_jax.models.hf_names import Entry, Table, give, refuse_tensors
from prism_jax.models.registry import FAMILIES, architecture_of, family_of
from prism_jax.programs import init_params, params_shapes
from prism_jax.seeds import check_seed
from prism_jax.trees import flatten, unflatten
from prism_jax.weights import peft_files
from prism_jax.weights.strict import faults

HINTS = {
    "classifier": " (give an adapter that holds one with --adapter, train one with train.finetune and score its run, "
    "or in Python draw one with fresh=['classifier'])",
    "pooler": " (choose a model class without a pooler, or draw one with fresh=['pooler'])",
}
"""Advice for error messages, by module of the model: for one that is missing in the source, or has another shape."""


@dataclass(frozen=True)
class Pretrained:
    """A model with its weights.

    Attributes:
      model: the Linen module.
      params: its parameters, float32.
      folder: folder of config, weights and tokenizer; None for a model that was created here.
      label_names: names of the head's classes, in their order; LABEL_0 and so on if they are unknown.
    """

    model: Model
    params: Any
    folder: Path | None = None
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """Input of `load`, before the weights are read. Config, tensor names, shapes and types have been checked.

    Attributes:
      pretrained: the model without parameters, with the class names of the source.
      tensors: table entries with their tensors, by our paths, see `fit`.
      adapter_params: parameters from the adapter, by our paths.
    """

    pretrained: Pretrained
    tensors: Mapping[str, tuple[Entry, Any]]
    adapter_params: Mapping[str, np.ndarray]


def load(
    kind: type[Model],
    source: str | Path,
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
    """Loads a model of class `kind` with pretrained weights.

    Args:
      kind: for example `BertForSequenceClassification`.
      source: a folder, a hub id or an asset, see `hub.resolve`.
      revision: branch, tag or commit of a hub id.
      adapter: a folder in PEFT's layout, see `peft_files.load`. Its adapters are folded into the weights. Its whole
        modules replace those of the source, which may lack them.
      num_labels: number of classes of the head. The default is that of the adapter, or else of the source's config.
      label_names: names of the classes, in the wanted order. If the head's class names are known, the head is reordered
        to match.
      num_tokens: N of later sequences. If given, a model that can't take them is refused before its weights are read.
      fresh: top-level parameters, for example `"classifier"`, to initialise at random instead of reading. If this
        covers all of them, no weight file is needed.
      seed: random seed for `fresh`, 0 to 2^32 - 1.
      compute_dtype: "float32" or "bfloat16", see `TransformerConfig`.
      reader: function that reads the tensors of the source's folder.

    Raises:
      InputError: if files or tensors are missing, unknown, of another shape or not floating point, the config has
        unsupported values (all are listed), or the head's classes differ from `label_names`.
      AssetError: if an asset can't be fetched.
    """
    check_seed(seed)
    fresh = tuple(fresh)
    checked = find(
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
    model, names = checked.pretrained.model, checked.pretrained.label_names
    order = np.array(labels.order(names, label_names)) if names and label_names else None
    shapes = flatten(params_shapes(model))
    params = {
        path: entry.take(np.asarray(tensor), shapes[path].shape).astype(np.float32, copy=False)
        for path, (entry, tensor) in checked.tensors.items()
    }
    if fresh:
        params = flatten(init_params(model, jax.random.key(seed))) | params
    params = unflatten({**params, **checked.adapter_params})
    if checked.adapter_params:
        params = lora.merge(params)
    if order is None:
        return replace(checked.pretrained, params=params)
    if (order != np.arange(len(order))).any():
        flat = flatten(params)
        heads = [path for path in flat if path.rpartition("/")[0] in kind.label_layers]
        params = unflatten(flat | {path: flat[path][..., order] for path in heads})
    return replace(checked.pretrained, params=params, label_names=tuple(label_names))


def find(
    kind: type[Model],
    source: str | Path,
    *,
    revision: str | None = None,
    adapter: str | Path | None = None,
    num_labels: int | None = None,
    num_tokens: int | None = None,
    fresh: Iterable[str] = (),
    compute_dtype: str = "float32",
    reader: hub.Reader = hub.read_tensors,
) -> Checked:
    """Finds and checks the input of `load`, with the same arguments. Raises errors before any weights are read.

    For a hub id, the config is fetched and checked before the other files.
    """
    source = str(source)
    folder = hub.resolve(source, revision, ("config.json",))
    hf_config = _read_config(kind, source, folder)
    adapter_folder = Path(adapter).expanduser() if adapter is not None else None
    if adapter_folder and num_labels is None:
        num_labels = peft_files.num_labels(adapter_folder)
    family = family_of(kind)
    config = family.hf.config_from_hf(hf_config, num_labels)
    config = replace(config, stack=replace(config.stack, compute_dtype=compute_dtype))
    records.check_fields(config, f"{folder}/config.json: ")
    if issubclass(kind, WithClassTokens) and hasattr(config, "class_id"):
        folder = _with_all_files(source, folder)
        config = replace(config, class_id=text.class_id(folder, config.vocab_size))
    model = kind(config)
    if num_tokens is not None:
        model.check(num_tokens)
    shapes, drawn = params_shapes(model), set(fresh)
    if unknown := drawn - set(shapes):
        raise InputError(f"{kind.__name__} has no parameters {', '.join(sorted(unknown))}; it has {', '.join(shapes)}")
    folder = _with_all_files(source, folder)
    pickle = Path(source).name if pickles.is_pickle(Path(source).expanduser()) else None
    tensors = {} if drawn == set(shapes) else reader(folder, pickle)
    adapter_params = peft_files.read(adapter_folder, model) if adapter_folder else {}
    read_from_source = {
        path: x for path, x in flatten(shapes).items() if path.split("/")[0] not in drawn and path not in adapter_params
    }
    head = f"{kind.label_layers[0]}/kernel"
    if head in read_from_source:
        label2id = hub.read_json(folder / "config.json", hub.HubConfig).get("label2id")
        names = labels.names_in_config(hf_config["id2label"], label2id)
    elif adapter_folder and head in adapter_params:
        noted = hub.read_label_names(adapter_folder / peft_files.WEIGHTS)
        names = noted or labels.placeholder_names(config.num_labels)
    elif head in flatten(shapes):  # drawn
        names = labels.placeholder_names(config.num_labels)
    else:
        names = ()
    fitting = fit(tensors, family.hf.table(config), read_from_source, architecture_of(kind))
    return Checked(Pretrained(model, None, folder, names), fitting, adapter_params)


def _read_config(kind: type[Model], source: str, folder: Path) -> dict:
    """Returns Hugging Face's config in the folder of a source. Raises InputError if `kind` is of another family."""
    hf_config = hub.read_config(folder, FAMILIES)
    if FAMILIES[hf_config["model_type"]] is not family_of(kind):
        raise InputError(
            f"{source!r} holds a {hf_config['model_type']} model, which {kind.__name__} is not; "
            "choose another class, or models.auto(source)"
        )
    return hf_config


def _with_all_files(source: str, folder: Path) -> Path:
    """Returns the folder of a source with all its files: those of a hub id are fetched, from the same commit."""
    is_hub_id = not source.startswith("asset:") and not Path(source).expanduser().exists()
    return hub.resolve(source, folder.name) if is_hub_id else folder


def fit(
    tensors: hub.Tensors, table: Table, wanted: Mapping[str, Any], architecture: str
) -> dict[str, tuple[Entry, hub.Stored | np.ndarray]]:
    """Matches each of our parameters with a tensor under a Hugging Face name.

    Args:
      tensors: the tensors, by name.
      table: the family's name table.
      wanted: shapes of our parameters, by path.
      architecture: Hugging Face's class name of the model.

    Raises:
      InputError: with every tensor that is missing, unknown, of another shape, not floating point, or different from
        its tied copy.
    """
    named = table.by_name(tensors)
    wrong = {
        copy: f"{copy} differs from {name}, to which it is tied here"
        for name, copy in table.untied(named, architecture)
    }
    unique = table.without_copies(named)
    entries = [entry for entry in table.entries if entry.path in wanted]
    shapes = {entry.hf_name: entry.hf_shape(wanted[entry.path].shape) for entry in entries}
    hints = {entry.hf_name: HINTS.get(entry.path.split("/")[0], "") for entry in entries}
    wrong |= {name: message + hints[name] for name, message in faults(shapes, unique).items()}
    known = {entry.hf_name for entry in table.entries}
    wrong |= {name: f"{name} is unknown" for name in unique if name not in known}
    refuse_tensors("the weights don't fit the model", list(wrong.values()))
    return {entry.path: (entry, unique[entry.hf_name]) for entry in entries}


def export_tensors(params: Any, table: Table) -> dict[str, np.ndarray]:
    """Returns tensors under Hugging Face names without prefix, for all or some of our parameters."""
    flat = {name: np.asarray(value) for name, value in flatten(params).items()}
    entries: dict[str, list[Entry]] = {}
    for entry in table.entries:
        if entry.path in flat:
            entries.setdefault(entry.hf_name, []).append(entry)
    return {name: give(pieces, flat) for name, pieces in entries.items()}


def export(pretrained: Pretrained, folder: str | Path, label_names: Sequence[str] = ()) -> None:
    """Writes a folder that `transformers.AutoModel...from_pretrained` can open.

    Args:
      pretrained: the model. Tokenizer, image processor and other config values are copied from its folder.
      folder: a new or empty folder.
      label_names: names of the classes. The default is those of `pretrained`.

    Raises:
      InputError: if the folder is not empty, or a parameter has no Hugging Face name: an adapter, or a parameter of a
        user's class.
    """
    model, source, folder = pretrained.model, pretrained.folder, Path(folder)
    check_empty(folder)
    family, architecture = family_of(type(model)), architecture_of(type(model))
    table = family.hf.table(model.config)
    if lora.has_adapters(pretrained.params):
        raise InputError(
            "the parameters have adapters; fold them in with lora.merge, or write these alone with peft_files.save"
        )
    table.check_named(flatten(pretrained.params))
    tensors = export_tensors(jax.device_get(pretrained.params), table)
    tensors = {table.full_name(name, architecture): x for name, x in tensors.items()}
    config_json: dict[str, Any] = {**hub.read_json(source / "config.json", hub.HubConfig)} if source else {}
    config_json |= family.hf.config_to_hf(model.config)
    config_json |= {"architectures": [architecture], "dtype": "float32"}
    config_json.pop("torch_dtype", None)  # the older name of dtype, which may have another value
    num_labels = getattr(model.config, "num_labels", None)
    names = label_names or pretrained.label_names
    config_names = labels.names_in_config(config_json.get("id2label"), None)
    if num_labels and (num_labels != len(config_names) or (names and tuple(names) != config_names)):
        names = names if len(names) == num_labels else labels.placeholder_names(num_labels)
        for old in ("num_labels", "_num_labels", "problem_type"):  # transformers would prefer these keys
            config_json.pop(old, None)
        config_json |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    with new_folder(folder) as partial:
        for path in hub.companions(source) if source else ():
            shutil.copyfile(path, partial / path.name)
        # The image size may differ from the source's.
        if (partial / images.SETTINGS).is_file() and hasattr(model.config, "image_size"):
            images.load_processor(partial, model.config.image_size).save_pretrained(partial)
        (partial / "config.json").write_text(json.dumps(config_json, indent=2) + "\n")
        hub.write_file(partial / hub.WEIGHTS, tensors)
