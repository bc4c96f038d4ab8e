"""Tables of the `datasets` library, from Hugging Face's hub or from a local folder in its layout.

A folder holds Parquet or JSON lines in the hub's layout, `[CONFIG/]SPLIT-00000-of-00001.parquet`. The library caches an
Arrow copy of the files, see `version`.
"""

import contextlib
import glob
import hashlib
import os
import re
import reprlib
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prism_jax.assets import hub
from prism_jax.data.datasets import Labelled, LazyItems
from prism_jax.data.folders import TABLES, local_files
from prism_jax.errors import InputError, one_line

if TYPE_CHECKING:
    import datasets
    from PIL.Image import Image

SET = re.compile(rf"({hub.HUB_ID})(?::([\w.-]+))?")
"""A hub id, with a config of the set behind a colon or without."""


def own_split(title: str, split: str, splits: Mapping[str, str]) -> str:
    """Returns the hub's name of a split, given our name."""
    if split not in splits:
        raise InputError(f"{title} has no split {split!r}; choose one of {', '.join(splits)}")
    return splits[split]


def read(
    hub_id: str, config: str | None, split: str, source: str | None, files: str | None = None
) -> "datasets.Dataset":
    """Reads a split as a table of the `datasets` library.

    Args:
      hub_id: default hub id of the set.
      config: the hub's config, and the subfolder of a local folder.
      split: the hub's name of the split.
      source: a folder or a hub id that replaces the default; None for the default.
      files: pattern, with `{split}`, of the files of the split at the default hub id. If given, other splits are not
        downloaded.
    """
    source = source or hub_id
    folder = Path(source)
    if folder.is_dir():
        return read_folder(folder, config, split)
    named = SET.fullmatch(source)
    if source.startswith((".", "~")) or not named:
        raise InputError(f"no folder {source!r}; give a folder in the hub's layout, or a hub id such as 'org/name'")
    options = {}
    if files and source == hub_id:  # the library's check would complain about the missing splits
        options = {"data_files": {split: files.format(split=split)}, "verification_mode": "no_checks"}
    import datasets

    try:
        with quiet():
            return not_empty(source, datasets.load_dataset(named[1], named[2] or config, split=split, **options))
    except InputError:
        raise
    except Exception as error:  # the library raises many kinds: no network, no such set, split or config, a broken file
        raise InputError(
            f"{source!r} is no folder here, and the hub did not give its split {split!r}: {one_line(error)}; "
            "give a folder in the hub's layout with --data-source"
        ) from error


def read_folder(folder: Path, config: str | None, split: str) -> "datasets.Dataset":
    """Reads a split of a local folder in the hub's layout."""
    parents = [folder / config] if config and (folder / config).is_dir() else [folder]
    files = local_files(parents, split)
    if not files:
        expected = f"{config}/" if config else ""
        raise InputError(
            f"no files of the split {split!r} in {folder}; it should hold {expected}{split}-*.parquet (or .jsonl)"
        )
    import datasets

    # load_dataset would tell the hub of it, and wait 5 s where there is no network
    load = {"parquet": datasets.Dataset.from_parquet, "json": datasets.Dataset.from_json}[TABLES[files[0].suffix]]
    patterns = {split: [as_pattern(path) for path in files]}
    try:
        with quiet():
            table = load(patterns, split=split, config_name=version(files))
    except Exception as error:  # the library wraps Arrow's error for a broken file
        reason = one_line(error.__cause__ or error)
        raise InputError(f"can't read {files[0]}{' and more' * (len(files) > 1)}: {reason}; get it again") from error
    return not_empty(str(folder), table)


def as_pattern(path: Path) -> str:
    """Returns a pattern of the `datasets` library that matches exactly one file, whatever its name.

    Raises:
      InputError: if the library can't read files with this name.
    """
    name = str(path.absolute())
    if "::" in name:
        raise InputError(f"tables can't be read from {name!r}, as '::' means an archive there; rename the folder")
    if os.path.expandvars(name) != name:  # the library would expand it and read another place
        raise InputError(
            f"tables can't be read from {name!r}, as '$' stands for an environment variable there; rename the folder"
        )
    return glob.escape(name)


def version(files: Iterable[Path]) -> str:
    """Returns a name for the current state of files. The library keeps its copy of them under this name.

    The library would compare modification times. Other files with the same name may share them, for example copied or
    unpacked ones.
    """
    stats = [path.stat() for path in files]
    state = repr([(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats])
    return hashlib.sha256(state.encode()).hexdigest()[:16]


def not_empty(source: str, table: "datasets.Dataset") -> "datasets.Dataset":
    """Returns the table. Raises InputError if it has no examples."""
    if not len(table):
        raise InputError(f"{source} has no examples in its split {table.split}; choose another")
    return table


def labelled_images(
    name: str, table: "datasets.Dataset", image: str, label: str, label_names: tuple[str, ...]
) -> Labelled:
    """Returns the images of a table with their classes. Images are decoded on access.

    The table must hold the bytes of each image. An example with a file name or an address instead is refused: data must
    not decide which files are read.
    """
    import datasets
    import pyarrow.compute as pc

    check_columns(name, table, [image, label])
    try:
        images = table.select_columns(image).cast_column(image, datasets.Image(decode=False))
    except Exception as error:  # Arrow may raise anything for a column of another type
        raise InputError(
            f"the column {image!r} of {name} holds no images: {one_line(error)}; choose a data_source with images there"
        ) from error
    lacking = pc.index(pc.is_null(pc.struct_field(images.data.column(image), "bytes")), True).as_py()
    if lacking >= 0:
        path = (images[lacking][image] or {}).get("path")
        content = "is null" if path is None else f"names {path!r} in place of an image"
        raise InputError(
            f"example {lacking} of {name} {content}; store the bytes of every image in the column {image!r}, "
            "or leave the example out"
        )
    inputs = {"image": LazyItems(images, lambda row: decode(row[image]["bytes"]), name)}
    return Labelled(name, inputs, *classes(name, table, label, label_names))


def decode(stored: bytes) -> "Image":
    """Returns an image from the bytes of its file, turned by its EXIF orientation."""
    import datasets
    from PIL import UnidentifiedImageError

    try:
        return datasets.Image().decode_example({"bytes": stored, "path": None})
    except UnidentifiedImageError as error:  # its message contains the address of an object
        raise ValueError("Pillow knows no image like that") from error


def classes(
    name: str, table: "datasets.Dataset", column: str, label_names: tuple[str, ...]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Returns labels and their names. Labels are None if all are hidden (-1). Names are the table's names, or else
    `label_names`."""
    names = tuple(getattr(table.features[column], "names", label_names))
    labels = table[column][:]
    if all(label == -1 for label in labels):
        return None, names
    for i, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(names):
            raise InputError(
                f"example {i} of {name} has the label {reprlib.repr(label)} in its column {column!r}; "
                f"labels are integers from 0 to {len(names) - 1}"
            )
    return np.array(labels), names


def strings(name: str, table: "datasets.Dataset", column: str) -> list[str]:
    """Returns the strings of a column.

    Raises:
      InputError: if an example has another type there.
    """
    texts = table[column][:]
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"example {i} of {name} has {reprlib.repr(text)} in its column {column!r}; it should be a text"
            )
    return texts


def check_columns(name: str, table: "datasets.Dataset", columns: Collection[str]) -> None:
    """Raises InputError if a table lacks one of the columns."""
    if missing := [column for column in columns if column not in table.column_names]:
        raise InputError(f"{name} has no column {', '.join(missing)}; found are {', '.join(table.column_names)}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the library's log, which repeats its errors, and its progress bars if stderr is not a terminal."""
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
