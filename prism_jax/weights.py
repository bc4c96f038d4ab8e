"""Weights in and out of Hugging Face's layout, strictly: every tensor is accounted for, by name and by shape.

Three sources, one way: a folder in the hub's layout (`config.json`, `model.safetensors`), a hub id, or an asset
(`asset:minilm`, see `prism_jax.assets`).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from prism_jax import assets
from prism_jax.errors import InputError
from prism_jax.forward import init_params, params_shapes
from prism_jax.models import bert
from prism_jax.models.hugging_face import Entry, Table

FAMILIES = {"bert": bert}
"""Modules of the families, by Hugging Face's `model_type`."""

WEIGHTS = "model.safetensors"
HUB_ID = r"[\w.-]+(/[\w.-]+)?"
HEAD_HINT = " (give a trained head with --head, or train one with train.finetune)"
HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
]


@dataclass(frozen=True)
class Pretrained:
    """A model with its weights.

    Attributes:
      model: the Linen module.
      params: its parameters, float32.
      folder: where config, weights and tokenizer lie.
    """

    model: nn.Module
    params: Any
    folder: Path


def check_source(source: str) -> None:
    """Raises InputError if a source can be seen to be wrong without fetching anything."""
    if source.startswith("asset:"):
        if (name := source.removeprefix("asset:")) not in assets.ASSETS:
            raise InputError(f"unknown asset {name!r}; known are {', '.join(assets.ASSETS)}")
    elif not Path(source).expanduser().is_dir() and (source.startswith(".") or not re.fullmatch(HUB_ID, source)):
        raise InputError(
            f"no folder {source!r}; give a folder in the hub's layout, a hub id such as 'org/name', or 'asset:minilm'"
        )


def resolve(source: str, revision: str | None = None) -> Path:
    """The folder for a source: a local folder, `asset:NAME`, or a hub id (downloaded into Hugging Face's cache).

    Raises:
      InputError: if there is no such folder and it can't be a hub id, or the hub has no such model.
      AssetError: if an asset can't be had.
    """
    check_source(source)
    if source.startswith("asset:"):
        return assets.fetch(assets.ASSETS[source.removeprefix("asset:")])
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(source, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        at = f" at revision {revision!r}" if revision else ""
        raise InputError(f"{source!r} is no folder here, and the hub did not give it{at}: {reason}") from error


def load(
    kind: type[nn.Module],
    source: str,
    *,
    revision: str | None = None,
    head: str | Path | None = None,
    num_labels: int | None = None,
    num_tokens: int | None = None,
    fresh: Iterable[str] = (),
    seed: int = 0,
) -> Pretrained:
    """A model of class `kind` with pretrained weights.

    Args:
      kind: for instance `BertForSequenceClassification`.
      source: see `resolve`.
      revision: branch, tag or commit of a hub id.
      head: a safetensors file whose tensors (Hugging Face names) stand in for those of the source.
      num_labels: classes of the head, where they are not those of the source's config.
      num_tokens: N of the sequences to come, to refuse a model that can't take them before its weights are read.
      fresh: parts of the model (`"classifier"`) that are drawn at random instead of read.
      seed: for `fresh`.

    Raises:
      InputError: if files or tensors are missing, unknown or of another shape, or the config has values that are not
        implemented; all are listed.
      AssetError: if an asset can't be had.
    """
    folder = resolve(source, revision)
    hf_config = read_config(folder)
    family = FAMILIES[hf_config["model_type"]]
    if not hasattr(family, kind.__name__):
        raise InputError(f"{source!r} holds a {hf_config['model_type']} model, which {kind.__name__} is not")
    config = family.config_from_hf(hf_config, num_labels)
    model = kind(config)
    if num_tokens is not None:
        model.check(num_tokens)
    shapes, fresh = params_shapes(model), tuple(fresh)
    if unknown := set(fresh) - set(shapes):
        raise InputError(f"{kind.__name__} has no parameters {', '.join(sorted(unknown))}; it has {', '.join(shapes)}")
    tensors = read_tensors(folder)
    if head is not None:
        tensors = _normalise(tensors, family.table(config)) | read_head(Path(head))
    params = import_params(tensors, family.table(config), shapes, fresh=fresh)
    if fresh:
        drawn = flax.traverse_util.flatten_dict(init_params(model, jax.random.key(seed)))
        params = flax.traverse_util.unflatten_dict(drawn | flax.traverse_util.flatten_dict(params))
    return Pretrained(model, params, folder)


def read_config(folder: Path) -> dict:
    """The attributes of the Hugging Face config in `folder`."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"no config.json in {folder}; give a folder in the hub's layout")
    model_type = read_json(path).get("model_type")
    if model_type not in FAMILIES:
        raise InputError(f"{path} says model_type {model_type!r}; implemented are {', '.join(FAMILIES)}")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder).to_dict()
    except Exception as error:  # whatever transformers makes of a wrong value
        reason = " ".join(str(error).split())
        raise InputError(f"{path} has a value that transformers refuses: {reason}") from error


def read_json(path: Path) -> dict:
    """A JSON file that holds an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; download it again")
    return content


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, from one safetensors file or several with an index."""
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise InputError(f"{index} has no weight_map; download it again")
        names = sorted(set(weight_map.values()))
    elif (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    else:
        pickled = next(folder.glob("*.bin"), None)
        hint = f"; {pickled.name} is a pickle, which is not opened: save it as safetensors first" if pickled else ""
        raise InputError(f"no {WEIGHTS} in {folder}{hint}")
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        tensors |= read_file(folder / name)
    return tensors


def read_file(path: Path) -> dict[str, np.ndarray]:
    """All tensors of one safetensors file."""
    if not path.is_file():
        raise InputError(f"no file {path}; download or train it again")
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}; download it again") from error


def read_head(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a trained head: whole layers, so that none is half the source's."""
    tensors = read_file(path)
    layers = {name.rpartition(".")[0] for name in tensors}
    missing = [
        f"{layer}.{part}" for layer in sorted(layers) for part in ("weight", "bias") if f"{layer}.{part}" not in tensors
    ]
    if missing:
        raise InputError(f"the head {path} lacks {', '.join(missing)}; train it again with train.finetune")
    return tensors


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
    wanted = flax.traverse_util.flatten_dict(shapes, sep="/")
    params, wrong = {}, []
    for entry in table.entries:
        if entry.ours not in wanted or entry.ours.split("/")[0] in fresh:
            continue
        if entry.theirs not in tensors:
            wrong.append(f"{entry.theirs} is missing" + HEAD_HINT * (entry.ours.split("/")[0] == "classifier"))
            continue
        value = _transposed(entry, tensors[entry.theirs]).astype(np.float32)
        if value.shape != wanted[entry.ours].shape:
            expected = _transposed(entry, np.empty(wanted[entry.ours].shape)).shape
            wrong.append(f"{entry.theirs} has shape {tensors[entry.theirs].shape}, not {expected}")
        params[entry.ours] = value
    known = {entry.theirs for entry in table.entries}
    wrong += [
        f"{name} is unknown"
        for name in tensors
        if name not in known and not any(re.fullmatch(p, name) for p in table.unused)
    ]
    if wrong:
        shown = "; ".join(wrong[:20]) + (f"; and {len(wrong) - 20} more" if len(wrong) > 20 else "")
        raise InputError(f"the weights don't fit the model: {shown}")
    return flax.traverse_util.unflatten_dict(params, sep="/")


def export_tensors(params: Any, table: Table) -> dict[str, np.ndarray]:
    """Tensors under Hugging Face names, from (some of) our parameters."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {
        e.theirs: np.ascontiguousarray(_transposed(e, np.asarray(flat[e.ours])))
        for e in table.entries
        if e.ours in flat
    }


def write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    save_file(dict(tensors), partial)
    partial.chmod(0o644)
    partial.replace(path)


def _transposed(entry: Entry, value: np.ndarray) -> np.ndarray:
    return value.T if entry.transpose else value
