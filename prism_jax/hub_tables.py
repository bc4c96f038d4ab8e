"""Tables of the `datasets` library, from Hugging Face's hub or from a local folder in its layout.

A folder holds Parquet or JSON lines as the hub lays them out, `[CONFIG/]SPLIT-00000-of-00001.parquet`. The library keeps an
Arrow copy of what it read in its cache, by the files' names and times, so a changed file is read anew.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prism_jax.dataset import Labelled, Selected
from prism_jax.errors import InputError

HUB_ID = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?")
READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
"""By a file's suffix: what of the library reads it."""

IMAGES = (".jpeg", ".jpg", ".png")


@dataclass(frozen=True)
class Rows(Sequence):
    """Rows of a table of the `datasets` library, each made into an item when it is asked for.

    Attributes:
      table: a `datasets.Dataset`.
      item: from a row, by column, to the item.
      name: of the data, for errors.
    """

    table: Any
    item: Callable[[Mapping[str, Any]], Any]
    name: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return Selected(self, np.arange(len(self))[i])
        try:
            return self.item(self.table[int(i)])
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's, for a damaged image
            raise InputError(f"example {i} of {self.name} can't be read: {one_line(error)}; get it again") from error


def read_text(path: Path) -> str:
    """A file of text, with its line breaks as they are."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}; convert it") from error


def own_split(title: str, split: str, splits: Mapping[str, str]) -> str:
    """The hub's name of a split, from those of ours."""
    if split not in splits:
        raise InputError(f"{title} has no split {split!r}; choose one of {', '.join(splits)}")
    return splits[split]


def read(hub_id: str, config: str | None, split: str, source: str | None, files: str | None = None):
    """A split as a table of the `datasets` library.

    Args:
      hub_id: the set's own.
      config: of the hub's, and the subfolder of a local one.
      split: by the hub's name.
      source: a folder or a hub id, that stands in for the set's own.
      files: where the set's own hub id keeps the split, if the others should not be downloaded; with `{split}`.
    """
    source = source or hub_id
    folder = Path(source).expanduser()
    if folder.is_dir():
        return read_folder(folder, config, split)
    named = HUB_ID.fullmatch(source)
    if source.startswith((".", "~")) or not named:
        raise InputError(f"no folder {source!r}; give a folder in the hub's layout, or a hub id such as 'org/name'")
    of = {}
    if files and source == hub_id:  # the check would miss the other splits
        of = {"data_files": {split: files.format(split=split)}, "verification_mode": "no_checks"}
    import datasets

    try:
        with quiet():
            return checked(source, datasets.load_dataset(named[1], named[2] or config, split=split, **of))
    except InputError:
        raise
    except Exception as error:  # the library raises many kinds: no network, no such set, split or config, a broken file
        raise InputError(
            f"{source!r} is no folder here, and the hub did not give its split {split!r}: {one_line(error)}; "
            "give a folder in the hub's layout with --data-source"
        ) from error


def read_folder(folder: Path, config: str | None, split: str):
    """A split of a local folder in the hub's layout."""
    places = [folder / config] if config and (folder / config).is_dir() else [folder]
    files = local_files(places, split)
    if not files:
        expected = f"{config}/" if config else ""
        raise InputError(
            f"no files of the split {split!r} in {folder}; it should hold {expected}{split}-*.parquet (or .jsonl)"
        )
    import datasets

    reader = READERS[files[0].suffix]
    try:
        with quiet():
            table = datasets.load_dataset(reader, data_files={split: [str(path) for path in files]}, split=split)
    except Exception as error:  # the library wraps what Arrow says of a broken file
        reason = one_line(error.__cause__ or error)
        raise InputError(f"can't read {files[0]}{' and more' * (len(files) > 1)}: {reason}; get it again") from error
    return checked(str(folder), table)


def checked(source: str, table):
    """The table, if it has rows."""
    if not len(table):
        raise InputError(f"{source} has no examples in its split {table.split}; choose another")
    return table


def local_files(places: Collection[Path], split: str, suffixes: Collection[str] = tuple(READERS)) -> list[Path]:
    """The files of a split in the first of the places (or its folder `data`) that has some, all of one suffix.

    They are called SPLIT or SPLIT-*, or lie in a folder SPLIT; "val" and "valid" also mean "validation".
    """
    names = {"validation": ("validation", "valid", "val")}.get(split, (split,))
    belongs = re.compile(rf"({'|'.join(map(re.escape, names))})([-._\d].*)?")
    for place in [place for parent in places for place in (parent, parent / "data")]:
        for suffix in suffixes:
            own = [path for path in place.glob(f"*{suffix}") if belongs.fullmatch(path.name.removesuffix(suffix))]
            inside = f"**/*{suffix}" if suffix == ".txt" else f"*{suffix}"
            below = [path for name in names for path in (place / name).glob(inside)]
            if files := sorted(own + below):
                return files
    return []


def image_folder(folder: Path, split: str):
    """Plain images in a folder of each class, as a table of columns `image` and `label`. The classes are those of `train`, if it is there."""
    import datasets

    names = {"train": ("train",), "validation": ("val", "validation")}.get(split, ())
    place = next((folder / name for name in names if (folder / name).is_dir()), None)
    if place is None:
        raise InputError(
            f"no split {split!r} in {folder}; it should hold {split}-*.parquet, or train/WNID/*.JPEG and val/WNID/*.JPEG"
        )
    wnids = folders_in(folder / "train") or folders_in(place)
    if unknown := set(folders_in(place)).difference(wnids):
        raise InputError(
            f"{place} has the class {min(unknown)}, which {folder / 'train'} lacks; give both the same folders"
        )
    files = [
        (str(path), label)
        for label, wnid in enumerate(wnids)
        for path in sorted((place / wnid).glob("*"))
        if path.suffix.lower() in IMAGES
    ]
    if not files:
        raise InputError(f"no images in {place}; they should lie in a folder for each class, as in WNID/x.JPEG")
    paths, labels = zip(*files, strict=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=wnids)})
    return datasets.Dataset.from_dict({"image": paths, "label": labels}, features)


def folders_in(place: Path) -> list[str]:
    """The names of the folders in a folder, in alphabetic order; none where it is none."""
    return sorted(path.name for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def labelled_images(name: str, table, image: str, label: str, label_names: tuple[str, ...]) -> Labelled:
    """Images of a table with their classes; they are decoded when they are asked for."""
    import datasets

    check_columns(name, table, [image, label])
    images = table.select_columns(image)
    if not isinstance(images.features[image], datasets.Image):
        try:
            images = images.cast_column(image, datasets.Image())
        except Exception as error:  # whatever Arrow makes of a column of another kind
            raise InputError(f"the column {image!r} of {name} holds no images: {one_line(error)}") from error
    inputs = {"image": Rows(images, lambda row: row[image], name)}
    return Labelled(name, inputs, *classes(name, table, label, label_names))


def classes(name: str, table, column: str, label_names: tuple[str, ...]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels (None where all are hidden, as -1) and their names: the table's own, or these where it has none."""
    names = tuple(getattr(table.features[column], "names", label_names))
    labels = np.array(table[column][:])
    if labels.dtype.kind != "i":
        raise InputError(f"{name} has a label {labels[0]!s} in its column {column!r}; labels are integers from 0")
    if (labels == -1).all():
        return None, names
    if labels.min() < 0 or labels.max() >= len(names):
        raise InputError(
            f"{name} has labels from {labels.min()} to {labels.max()}, but {len(names)} classes; get it again"
        )
    return labels, names


def check_columns(name: str, table, columns: Collection[str]) -> None:
    """Raises InputError if a table lacks a column."""
    if missing := [column for column in columns if column not in table.column_names]:
        raise InputError(f"{name} has no column {', '.join(missing)}; found are {', '.join(table.column_names)}")


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if len(reason) <= 200 else f"{reason[:196]} ..."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log of the library, which repeats its errors, and no progress bars where no terminal shows them."""
    from datasets import utils

    level, bars = utils.logging.get_verbosity(), not utils.are_progress_bars_disabled()
    utils.logging.set_verbosity(utils.logging.CRITICAL)
    if hide := bars and not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(level)
        if hide:
            utils.enable_progress_bars()
