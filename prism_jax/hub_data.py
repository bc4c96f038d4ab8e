"""Data sets of Hugging Face's hub, or of a local folder in its layout, through the `datasets` library.

Each set has a hub id of its own. A `source` stands in for it: another id (`org/name` or `org/name:config`), or a folder
with Parquet or JSON lines as the hub lays them out, `[CONFIG/]SPLIT-00000-of-00001.parquet`. The library keeps an Arrow copy
of what it read in its cache, by the files' names and times, so a changed file is read anew.

Splits: "train" and "test", and the set's own names. Where the official test labels are hidden (GLUE, ImageNet), "test" is
the labelled validation split, and "hidden_test" the official one, whose labels are None.
"""

import contextlib
import functools
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prism_jax.dataset import Cloze, Corpus, Dataset, Labelled, Selected
from prism_jax.errors import InputError

HUB_ID = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?")
READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
"""By a file's suffix: what of the library reads it."""

IMAGES = (".jpeg", ".jpg", ".png")

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FINE_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch cra crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)
CIFAR100 = tuple(FINE_CLASSES.split())
IMAGENET = tuple(f"class {i}" for i in range(1000))
"""Names for files that carry none, in the hub's order ("cra" is its spelling)."""

IMAGENET_SPLITS = {"train": "train", "test": "validation", "validation": "validation", "hidden_test": "test"}


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


@dataclass(frozen=True)
class GlueTask:
    """A task of GLUE: its columns, classes (none: a number) and official metrics, and what its splits to score are called."""

    title: str
    columns: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy_percent",)
    sets: tuple[str, ...] = ("",)


ENTAILMENT = ("entailment", "not_entailment")
MNLI = ("entailment", "neutral", "contradiction")
TWO = ("sentence1", "sentence2")
GLUE = {
    "cola": GlueTask("CoLA", ("sentence",), ("unacceptable", "acceptable"), ("matthews_percent",)),
    "sst2": GlueTask("SST-2", ("sentence",), ("negative", "positive")),
    "mrpc": GlueTask("MRPC", TWO, ("not_equivalent", "equivalent"), ("accuracy_percent", "f1_percent")),
    "qqp": GlueTask(
        "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy_percent", "f1_percent")
    ),
    "stsb": GlueTask("STS-B", TWO, (), ("pearson_percent", "spearman_percent")),
    "mnli": GlueTask("MNLI", ("premise", "hypothesis"), MNLI, sets=("_matched", "_mismatched")),
    "qnli": GlueTask("QNLI", ("question", "sentence"), ENTAILMENT),
    "rte": GlueTask("RTE", TWO, ENTAILMENT),
    "wnli": GlueTask("WNLI", TWO, ENTAILMENT[::-1]),
}
"""By the hub's name, https://gluebenchmark.com/tasks; all but the diagnostic set."""


def cifar10(split: str, source: str | None = None) -> Labelled:
    """CIFAR-10, "train" (50,000 images of 32 x 32) or "test" (10,000)."""
    own = own_split("CIFAR-10", split, {"train": "train", "test": "test"})
    table = read("uoft-cs/cifar10", "plain_text", own, source)
    return labelled_images(f"CIFAR-10, {own}", table, "img", "label", CIFAR10)


def cifar100(split: str, source: str | None = None) -> Labelled:
    """CIFAR-100 by its 100 fine classes, "train" (50,000 images of 32 x 32) or "test" (10,000)."""
    own = own_split("CIFAR-100", split, {"train": "train", "test": "test"})
    table = read("uoft-cs/cifar100", "cifar100", own, source)
    return labelled_images(f"CIFAR-100, {own}", table, "img", "fine_label", CIFAR100)


def imagenet(split: str, source: str | None = None) -> Labelled:
    """ImageNet-1k, "train" (1,281,167 images), "validation" (50,000; also as "test") or "hidden_test" (100,000).

    The hub's set asks for your consent and login, and only the files of the split are downloaded. A folder may also hold
    plain images, `train/WNID/*.JPEG` and `val/WNID/*.JPEG` (or `validation`). Its classes are then the folders in
    alphabetic order. All 1,000 give the hub's order; some of them are counted from 0.
    """
    own = own_split("ImageNet", split, IMAGENET_SPLITS)
    name = f"ImageNet-1k, {'hidden_test' if own == 'test' else own}"
    if source is not None and (folder := Path(source).expanduser()).is_dir() and not local_files([folder], own):
        table = image_folder(folder, own)
    else:
        table = read("ILSVRC/imagenet-1k", None, own, source, "data/{split}-*")
    return labelled_images(name, table, "image", "label", IMAGENET)


def glue(task: str, split: str, source: str | None = None) -> Labelled:
    """A task of GLUE.

    Args:
      task: a key of `GLUE`.
      split: "train"; "validation", which "test" also means; or "hidden_test", whose labels are None (but MRPC's, which the hub
        has). MNLI has "validation_matched" ("test") and "validation_mismatched", and likewise "hidden_test_mismatched".
      source: stands in for `nyu-mll/glue`.
    """
    of = GLUE[task]
    splits = {"train": "train", "test": f"validation{of.sets[0]}", "hidden_test": f"test{of.sets[0]}"}
    for one in of.sets:
        splits |= {f"validation{one}": f"validation{one}", f"hidden_test{one}": f"test{one}"}
    own = own_split(f"GLUE {of.title}", split, splits)
    name = f"GLUE {of.title}, {own.replace('test', 'hidden_test')}"
    table = read("nyu-mll/glue", task, own, source)
    check_columns(name, table, [*of.columns, "label"])
    inputs = dict(zip(("text", "pair"), (table[column][:] for column in of.columns), strict=False))
    if of.label_names:
        return Labelled(name, inputs, *classes(name, table, "label", of.label_names), of.metrics)
    scores = np.array(table["label"][:], np.float64)
    hidden_labels = bool((scores == -1).all())
    if not hidden_labels and not ((scores >= 0) & (scores <= 5)).all():
        raise InputError(f"{name} has labels that are not from 0 to 5; get it again")
    return Labelled(name, inputs, None if hidden_labels else scores, (), of.metrics)


def cbt(kind: str, split: str, source: str | None = None) -> Cloze:
    """The Children's Book Test (Hill et al. 2016, arXiv 1511.02301), of one kind of words.

    A context is the 20 sentences, joined by spaces. An ending is a space and the 21st sentence with one of the ten words in
    the place of "XXXXX". The text keeps the set's tokens ("-LRB-", a space before full stops). A row with fewer than ten
    words has a wrong one several times, which changes no answer.

    Args:
      kind: "CN" (common nouns), "NE" (named entities), "V" (verbs) or "P" (prepositions).
      split: "train" (105,825 to 334,030 questions), "validation" (2,000) or "test" (2,500).
      source: stands in for `cam-cst/cbt`.
    """
    splits = {"train": "train", "validation": "validation", "test": "test"}
    own = own_split(f"CBT-{kind}", split, splits)
    name, table = f"CBT-{kind}, {own}", read("cam-cst/cbt", kind, own, source)
    check_columns(name, table, ["sentences", "question", "answer", "options"])
    answers, options = table["answer"][:], table["options"][:]
    most = max(map(len, options))
    for i, (answer, words) in enumerate(zip(answers, options, strict=True)):
        if answer not in words or len(set(words)) < 2:
            raise InputError(f"question {i} of {name} has the answer {answer!r}, but the options {words}; get it again")

    def endings(row):
        wrong = next(word for word in row["options"] if word != row["answer"])
        filled = row["options"] + [wrong] * (most - len(row["options"]))
        return tuple(" " + row["question"].replace("XXXXX", word, 1) for word in filled)

    return Cloze(
        name,
        Rows(table.select_columns("sentences"), lambda row: " ".join(row["sentences"]), name),
        Rows(table.select_columns(["question", "answer", "options"]), endings, name),
        np.array([words.index(answer) for answer, words in zip(answers, options, strict=True)]),
    )


def plain_text(split: str, source: str | None = None) -> Corpus:
    """Plain text for language modelling.

    Args:
      split: "train", "validation" or "test", or another of the source's own.
      source: a folder with `SPLIT/**/*.txt` or `SPLIT*.txt` in UTF-8, one document a file; or a folder in the hub's layout,
        or a hub id, whose column `text` holds a document a row. Empty rows are left out. Where every row is one line with
        its line break, as in wikitext, the rows are the lines of one document.
    """
    if source is None:
        raise InputError("plain text needs a source; add --data-source, a folder with train*.txt or a hub id")
    name, folder = f"{source}, {split}", Path(source).expanduser()
    if folder.is_dir() and (files := local_files([folder], split, [".txt"])):
        return Corpus(name, [read_text(path) for path in files])
    import pyarrow.compute as pc

    table = read(source, None, split, source)
    check_columns(name, table, ["text"])
    if table.features["text"].dtype not in ("string", "large_string"):
        raise InputError(
            f"the column text of {name} holds {table.features['text'].dtype}, not strings; choose another set"
        )
    full = table.data.column("text")  # Arrow's own passes, for corpora of millions of rows
    has_text = np.array(pc.match_substring_regex(full, r"\S").fill_null(False))
    if not has_text.any():
        raise InputError(f"{name} has no text in its column text; choose another split or source")
    if pc.all(pc.match_substring_regex(full.filter(has_text), r"\A[^\n]*\n\z")).as_py():
        return Corpus(name, ["".join(text or "" for text in table["text"][:])])
    rows = Rows(table.select_columns("text"), lambda row: row["text"], name)
    return Corpus(name, Selected(rows, np.flatnonzero(has_text)))


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
    """Plain images in a folder of each class, as a table of columns `image` and `label`."""
    import datasets

    names = {"train": ("train",), "validation": ("val", "validation")}.get(split, ())
    place = next((folder / name for name in names if (folder / name).is_dir()), None)
    if place is None:
        raise InputError(
            f"no split {split!r} in {folder}; it should hold {split}-*.parquet, or train/WNID/*.JPEG and val/WNID/*.JPEG"
        )
    wnids = sorted(path.name for path in place.iterdir() if path.is_dir())
    files = [
        (str(path), label)
        for label, wnid in enumerate(wnids)
        for path in sorted((place / wnid).iterdir())
        if path.suffix.lower() in IMAGES
    ]
    if not files:
        raise InputError(f"no images in {place}; they should lie in a folder for each class, as in WNID/x.JPEG")
    paths, labels = zip(*files, strict=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=wnids)})
    return datasets.Dataset.from_dict({"image": paths, "label": labels}, features)


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


DATASETS: dict[str, Callable[[str, str | None], Dataset]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagenet,
    **{f"glue/{task}": functools.partial(glue, task) for task in GLUE},
    **{f"cbt/{kind}": functools.partial(cbt, kind) for kind in ("CN", "NE", "V", "P")},
    "text": plain_text,
}
"""By name: functions from the split, and a folder or hub id that stands in for the set's own, to the data."""
