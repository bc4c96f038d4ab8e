"""Files in the layout of Hugging Face's hub: folders, configs and tensors of models.

A source is a folder in the hub's layout (`config.json`, `model.safetensors`), a hub id, an asset (`asset:minilm`, see
`prism_jax.assets`), or a GGUF file. All are read in the same way.
"""

import logging
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from prism_jax import assets, progress, records
from prism_jax.assets import gguf_files, pickles
from prism_jax.errors import InputError, one_line
from prism_jax.folders import whole

logging.getLogger("transformers").addFilter(lambda record: "PyTorch was not found" not in record.getMessage())
"""At its import, transformers warns that it has no models without PyTorch. None of them is used."""

T = TypeVar("T")

WEIGHTS = "model.safetensors"
HUB_ID = r"[\w.-]+(?:/[\w.-]+)?"
COMPANIONS = (
    *("generation_config.json", "preprocessor_config.json", "tokenizer*", "vocab.*", "merges.txt"),
    *("added_tokens.json", "special_tokens_map.json"),
)
"""Patterns of the files that accompany config and weights."""

FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", *COMPANIONS)
"""Patterns of the files that are fetched for a hub id."""

FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""Types of weights: names in safetensors, and in NumPy."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file. `np.asarray` reads it on first use.

    Attributes:
      path: path of the file.
      name: name in the file.
      shape: shape of the tensor.
      dtype: NumPy's name of the type if it is one of FLOATS; otherwise the name in safetensors.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    @cached_property
    def _values(self) -> np.ndarray:
        with safe_open(self.path, "numpy") as file:
            return file.get_tensor(self.name)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._values, dtype, copy=copy)


Tensors = Mapping[str, Stored | np.ndarray]
"""Tensors by their names in the file."""

Reader = Callable[[Path, str | None], Tensors]
"""Type of `read_tensors`. With `functools.cache(read_tensors)`, each tensor of a folder is read once, even if several
models use it."""


class HubConfig(TypedDict):
    """Keys of config.json that are read in addition to those that transformers reads."""

    model_type: str
    architectures: NotRequired[list[str] | None]
    label2id: NotRequired[Any]


class Index(TypedDict):
    """model.safetensors.index.json: the file of each tensor."""

    weight_map: dict[str, str]


def check_source(source: str) -> None:
    """Raises InputError if a source is recognisably wrong. Fetches nothing."""
    if source.startswith("asset:"):
        if (name := source.removeprefix("asset:")) not in assets.ASSETS:
            raise InputError(f"unknown asset {name!r}; known are {', '.join(assets.ASSETS)}")
        return
    path = Path(source).expanduser()
    one_file = pickles.is_pickle(path) or gguf_files.is_gguf(path)
    if path.is_dir() or (one_file and path.is_file()):
        return
    if source.startswith(".") or one_file or not re.fullmatch(HUB_ID, source):
        raise InputError(
            f"no {'file' if one_file else 'folder'} {source!r}; give a folder in the hub's layout, a hub id such as "
            "'org/name', a GGUF file, or 'asset:minilm'"
        )


def public_name(source: str) -> str:
    """Returns the public name of a source: the hub id of an asset that has one; otherwise the source itself."""
    asset = assets.ASSETS.get(source.removeprefix("asset:")) if source.startswith("asset:") else None
    return (asset and asset.hub_id) or source


def resolve(source: str, revision: str | None = None, files: Sequence[str] = FILES) -> Path:
    """Returns the folder of a source: a local folder, `asset:NAME`, or a hub id (downloaded into Hugging Face's cache).

    A source may also be a GGUF file (converted into our cache), or a pickle in a local folder, given by its name:
    `DIR/pytorch_model.bin`. If the hub can't be reached, the cached files are used, even if some are missing.

    Args:
      source: the source.
      revision: branch, tag or commit of a hub id. The returned folder of a hub id has the name of the commit.
      files: patterns of the files to fetch for a hub id.

    Raises:
      InputError: if there is no such folder and the source is no hub id, the hub has no such model, or a GGUF file
        can't be converted.
      AssetError: if an asset can't be fetched.
    """
    check_source(source)
    if source.startswith("asset:"):
        return assets.fetch(assets.ASSETS[source.removeprefix("asset:")])
    path = Path(source).expanduser()
    if gguf_files.is_gguf(path):
        return gguf_files.fetch(path)
    if path.exists():
        return path.parent if path.is_file() else path
    from huggingface_hub import snapshot_download as fetch

    try:
        return Path(fetch(source, revision=revision, allow_patterns=[*files], tqdm_class=progress.Progress))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if cached := _cached(source, revision):
            print(f"the hub did not give {source!r}, so what the cache has of it is used: {reason}", file=sys.stderr)
            return cached
        at = f" at revision {revision!r}" if revision else ""
        raise InputError(
            f"{source!r} is no folder here, and the hub did not give it{at}: {reason}; "
            "check the id and the network, or give a folder in the hub's layout"
        ) from error


def _cached(source: str, revision: str | None) -> Path | None:
    """Returns the folder of a hub id in Hugging Face's cache, complete or not; None if there is none."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(source, revision=revision, local_files_only=True))
    except Exception as error:
        partial = getattr(error, "snapshot_path", None)  # of IncompleteSnapshotError
        return Path(partial) if partial else None


def read_hub_config(folder: Path, model_types: Collection[str]) -> HubConfig:
    """Returns the config.json of a folder as it stands there, without the defaults of transformers. Its type must be
    one of `model_types`."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"no config.json in {folder}; give a folder in the hub's layout")
    attributes = read_json(path, HubConfig)
    if attributes["model_type"] not in model_types:
        raise InputError(
            f"{path} says model_type {attributes['model_type']!r}; implemented are {', '.join(model_types)}"
        )
    return attributes


def read_config(folder: Path, model_types: Collection[str]) -> dict:
    """Returns the attributes of a folder's config, with transformers' defaults. Its type is one of `model_types`."""
    read_hub_config(folder, model_types)
    from transformers import AutoConfig

    return open_without_code(AutoConfig.from_pretrained, folder / "config.json").to_dict()


def open_without_code(open_folder: Callable, path: Path, **kwargs: Any) -> Any:
    """Returns the result of a transformers function on a folder. Never runs code from that folder.

    Args:
      open_folder: the function, for example `AutoConfig.from_pretrained`.
      path: the JSON file of the folder that could name code.
      **kwargs: further arguments of the function.

    Raises:
      InputError: if the file names code, or transformers refuses the folder.
    """
    if path.is_file() and (code := read_json(path, dict[str, Any]).get("auto_map")):
        raise InputError(
            f"{path} names code of its own, which is never run (auto_map: {code}); "
            "give a model that transformers has code for"
        )
    try:
        return open_folder(path.parent, trust_remote_code=False, **kwargs)
    except Exception as error:  # transformers may raise anything for a wrong value
        raise InputError(
            f"{path} has a value that transformers refuses: {one_line(error, 400)}; "
            "correct it, or download the file again"
        ) from error


def companions(folder: Path) -> list[Path]:
    """Returns the files of tokenizer, image processor and generation in a folder."""
    return sorted({path for pattern in COMPANIONS for path in folder.glob(pattern)})


def read_json(path: Path, kind: type[T]) -> T:
    """Returns a JSON file of type `kind`. It may have more keys."""
    return records.read(path, kind, "download it again")


def read_tensors(folder: Path, pickle: str | None = None) -> Tensors:
    """Returns all tensors of a folder. Reads one safetensors file, several with an index, or the given pickle."""
    if pickle:
        return pickles.read(folder / pickle)
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        names = _shards(index)
    elif (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    else:
        pickled = next(folder.glob("*.bin"), None)
        hint = f"; {pickled.name} is a pickle, opened only where it is the source: {pickled}" if pickled else ""
        raise InputError(f"no {WEIGHTS} in {folder}{hint or '; give a folder or a hub id that has safetensors'}")
    tensors: dict[str, Stored] = {}
    for name in names:
        new = read_file(folder / name)
        if twice := sorted(tensors.keys() & new.keys()):
            raise InputError(
                f"{twice[0]} stands in {tensors[twice[0]].path} and in {folder / name}; keep it in one of them"
            )
        tensors |= new
    return tensors


def _shards(index: Path) -> list[str]:
    """Returns the files that an index names. All must lie in the folder of the index."""
    names, folder = sorted(set(read_json(index, Index)["weight_map"].values())), index.parent.resolve()
    allowed = [folder]
    if folder.parent.name == "snapshots":  # the hub's cache holds links to files in `blobs`
        allowed.append(folder.parent.parent / "blobs")
    for name in names:
        if Path(name).name != name or (folder / name).resolve().parent not in allowed:
            raise InputError(f"{index} names {name!r}, which is no file of its own folder; download the model again")
    return names


def read_file(path: Path) -> dict[str, Stored]:
    """Returns all tensors of one safetensors file. Each is read on first use."""
    if not path.is_file():
        raise InputError(f"no file {path}; download or train it again")
    try:
        with safe_open(path, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Stored(path, name, tuple(x.get_shape()), FLOATS.get(x.get_dtype(), x.get_dtype()))
                for name, x in slices.items()
            }
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}; download it again") from error


def no_floats(tensor: Stored | np.ndarray) -> str | None:
    """Returns the reason why a tensor can't be a weight (its type), or None."""
    allowed = FLOATS.values()
    return None if str(tensor.dtype) in allowed else f"has the type {tensor.dtype}; weights are {', '.join(allowed)}"


def read_notes(path: Path) -> dict[str, str]:
    """Returns the notes in the metadata of a safetensors file, see `write_file`."""
    with safe_open(path, "numpy") as file:
        return file.metadata() or {}


def read_label_names(path: Path) -> tuple[str, ...]:
    """Returns the class names in the metadata of a safetensors file, see `write_file`. Empty if it has none."""
    noted = read_notes(path).get("label_names", "[]")
    try:
        return tuple(records.parse(noted, list[str]))
    except ValueError as error:
        raise InputError(f"{path} notes the label_names {noted!r}, no list of names; write it again") from error


def write_file(path: Path, tensors: Mapping[str, np.ndarray], notes: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file with notes in its metadata, completely or not at all."""
    in_order = {name: np.asarray(x, order="C") for name, x in tensors.items()}  # save_file writes memory as it lies
    with whole(path) as partial:
        save_file(in_order, partial, metadata={"format": "pt", **(notes or {})})
        partial.chmod(0o644)
