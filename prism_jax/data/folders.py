"""Files of a data folder, found by their paths: tables, texts and images. Hidden files never count."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from prism_jax.errors import InputError

TABLES = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
"""Loader of the `datasets` library by file suffix."""

IMAGES = (".jpeg", ".jpg", ".png")


@dataclass(frozen=True)
class ImagesByClass:
    """Image files with the class of each.

    Attributes:
      paths: absolute paths.
      labels: class of each file.
      label_names: names of the classes, by label.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    label_names: tuple[str, ...]


def visible(folder: Path, pattern: str) -> Iterator[Path]:
    """Yields the paths below a folder that match a pattern, except hidden ones: names that start with a dot, and
    `__MACOSX`.

    Examples are `.ipynb_checkpoints`, `.DS_Store`, and the `._x` and `__MACOSX` that macOS adds.
    """
    for path in folder.glob(pattern):
        if not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts):
            yield path


def local_files(parents: Collection[Path], split: str, suffixes: Collection[str] = tuple(TABLES)) -> list[Path]:
    """Returns the files of a split, all of one suffix, from the first of the parents (or its folder `data`) that has
    any.

    Files are named SPLIT or SPLIT-*, or lie in a folder SPLIT. For the split "validation", "val" and "valid" also
    count.
    """
    names = {"validation": ("validation", "valid", "val")}.get(split, (split,))
    belongs = re.compile(rf"({'|'.join(map(re.escape, names))})([-._\d].*)?")
    for folder in [child for parent in parents for child in (parent, parent / "data")]:
        for suffix in suffixes:
            own = [path for path in visible(folder, f"*{suffix}") if belongs.fullmatch(path.name.removesuffix(suffix))]
            inside = f"**/*{suffix}" if suffix == ".txt" else f"*{suffix}"
            below = [path for name in names for path in visible(folder / name, inside)]
            if files := sorted(path for path in own + below if not path.is_dir()):
                return files
    return []


def images_by_class(folder: Path, split: str) -> ImagesByClass:
    """Returns the images of a split that has a folder for each class. If there is a folder `train`, it defines the
    classes.

    Raises:
      InputError: if there are no images, or the split has a class that `train` lacks.
    """
    names = {"train": ("train",), "validation": ("val", "validation")}.get(split, ())
    of_split = next((folder / name for name in names if (folder / name).is_dir()), None)
    if of_split is None:
        raise InputError(
            f"no split {split!r} in {folder}; it should hold {split}-*.parquet, "
            "or train/WNID/*.JPEG and val/WNID/*.JPEG"
        )
    wnids = _folders_in(folder / "train") or _folders_in(of_split)
    if unknown := set(_folders_in(of_split)).difference(wnids):
        raise InputError(
            f"{of_split} has the class {min(unknown)}, which {folder / 'train'} lacks; give both the same folders"
        )
    files = [
        (path.absolute(), label)
        for label, wnid in enumerate(wnids)
        for path in sorted(visible(of_split / wnid, "*"))
        if path.suffix.lower() in IMAGES and not path.is_dir()
    ]
    if not files:
        raise InputError(f"no images in {of_split}; they should lie in a folder for each class, as in WNID/x.JPEG")
    paths, labels = zip(*files, strict=True)
    return ImagesByClass(paths, labels, tuple(wnids))


def read_text(path: Path) -> str:
    """Returns the text of a file. Line breaks are kept."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}; convert it") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}; get it again, or leave it out") from error


def _folders_in(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder, in alphabetic order. Empty if the folder does not exist."""
    return sorted(path.name for path in visible(folder, "*") if path.is_dir())
