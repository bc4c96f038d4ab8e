"""Data sets from Hugging Face's hub, or from a local folder in its layout, through the `datasets` library.

Each set has a default hub id. A `source` replaces it: another id (`org/name` or `org/name:config`), or a folder, see
`hub_tables`.

Splits are "train" and "test", and the set's original split names. Where the official test labels are hidden (GLUE,
ImageNet), "test" is the labelled validation split, and "hidden_test" is the official test split, with labels None.
"""

import functools
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prism_jax.data import class_names
from prism_jax.data.datasets import Cloze, Corpus, Dataset, FileBytes, Labelled, LazyItems, Selected
from prism_jax.data.folders import images_by_class, local_files, read_text
from prism_jax.data.hub_tables import check_columns, classes, decode, labelled_images, own_split, read, strings
from prism_jax.errors import InputError

CIFAR100 = tuple("cra" if name == "crab" else name for name in class_names.CIFAR100)
"""Classes of CIFAR-100 in the spelling of the hub's set."""
IMAGENET = tuple(f"class {i}" for i in range(1000))
"""Names of ImageNet's classes for files without class names."""

IMAGENET_SPLITS = {"train": "train", "test": "validation", "validation": "validation", "hidden_test": "test"}


@dataclass(frozen=True)
class GlueTask:
    """A task of GLUE: its title, columns, classes (empty: a number) and official metrics, and the suffixes of its
    scored splits."""

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
"""Tasks by the hub's name (https://gluebenchmark.com/tasks), except the diagnostic set."""


def cifar10(split: str, source: str | None = None) -> Labelled:
    """Loads CIFAR-10: "train" (50,000 images of 32 x 32) or "test" (10,000)."""
    hub_split = own_split("CIFAR-10", split, {"train": "train", "test": "test"})
    table = read("uoft-cs/cifar10", "plain_text", hub_split, source)
    return labelled_images(f"CIFAR-10, {hub_split}", table, "img", "label", class_names.CIFAR10)


def cifar100(split: str, source: str | None = None) -> Labelled:
    """Loads CIFAR-100 with its 100 fine classes: "train" (50,000 images of 32 x 32) or "test" (10,000)."""
    hub_split = own_split("CIFAR-100", split, {"train": "train", "test": "test"})
    table = read("uoft-cs/cifar100", "cifar100", hub_split, source)
    return labelled_images(f"CIFAR-100, {hub_split}", table, "img", "fine_label", CIFAR100)


def imagenet(split: str, source: str | None = None) -> Labelled:
    """Loads ImageNet-1k: "train" (1,281,167 images), "validation" (50,000; also as "test") or "hidden_test" (100,000).

    The hub's set requires consent and login; only the files of the split are downloaded. A folder may also hold plain
    images, `train/WNID/*.JPEG` and `val/WNID/*.JPEG` (or `validation`). The classes are then the folders in alphabetic
    order. With all 1,000 folders this is the hub's order. With fewer, labels still count from 0.
    """
    hub_split = own_split("ImageNet", split, IMAGENET_SPLITS)
    name = f"ImageNet-1k, {'hidden_test' if hub_split == 'test' else hub_split}"
    if source is not None and (folder := Path(source)).is_dir() and not local_files([folder], hub_split):
        files = images_by_class(folder, hub_split)
        images = LazyItems(FileBytes(files.paths), decode, name)
        return Labelled(name, {"image": images}, np.array(files.labels), files.label_names)
    table = read("ILSVRC/imagenet-1k", None, hub_split, source, "data/{split}-*")
    return labelled_images(name, table, "image", "label", IMAGENET)


def glue(task: str, split: str, source: str | None = None) -> Labelled:
    """Loads a task of GLUE.

    Args:
      task: a key of `GLUE`.
      split: "train"; "validation", also as "test"; or "hidden_test", with labels None (except for MRPC, whose labels
        the hub has). MNLI has "validation_matched" (also as "test") and "validation_mismatched", and likewise
        "hidden_test_mismatched".
      source: replaces `nyu-mll/glue`.
    """
    glue_task = GLUE[task]
    splits = {"train": "train", "test": f"validation{glue_task.sets[0]}", "hidden_test": f"test{glue_task.sets[0]}"}
    for suffix in glue_task.sets:
        splits |= {f"validation{suffix}": f"validation{suffix}", f"hidden_test{suffix}": f"test{suffix}"}
    hub_split = own_split(f"GLUE {glue_task.title}", split, splits)
    name = f"GLUE {glue_task.title}, {hub_split.replace('test', 'hidden_test')}"
    table = read("nyu-mll/glue", task, hub_split, source)
    check_columns(name, table, [*glue_task.columns, "label"])
    inputs = dict(zip(("text", "pair"), (strings(name, table, column) for column in glue_task.columns), strict=False))
    if glue_task.label_names:
        return Labelled(name, inputs, *classes(name, table, "label", glue_task.label_names), glue_task.metrics)
    scores = table["label"][:]
    if all(score == -1 for score in scores):
        return Labelled(name, inputs, None, (), glue_task.metrics)
    for i, score in enumerate(scores):
        if type(score) not in (int, float) or not 0 <= score <= 5:
            raise InputError(f"example {i} of {name} has the label {score!r}; labels are numbers from 0 to 5")
    return Labelled(name, inputs, np.array(scores, np.float64), (), glue_task.metrics)


def cbt(kind: str, split: str, source: str | None = None) -> Cloze:
    """Loads the Children's Book Test (Hill et al. 2016, arXiv 1511.02301) for one kind of words.

    A context is the 20 sentences, joined by spaces. An ending is a space and the 21st sentence, with one of the ten
    words in place of "XXXXX". The text keeps the set's tokens ("-LRB-", a space before full stops). A question with
    fewer than ten words repeats a wrong one, which changes no answer.

    Args:
      kind: "CN" (common nouns), "NE" (named entities), "V" (verbs) or "P" (prepositions).
      split: "train" (105,825 to 334,030 questions), "validation" (2,000) or "test" (2,500).
      source: replaces `cam-cst/cbt`.
    """
    splits = {"train": "train", "validation": "validation", "test": "test"}
    hub_split = own_split(f"CBT-{kind}", split, splits)
    name, table = f"CBT-{kind}, {hub_split}", read("cam-cst/cbt", kind, hub_split, source)
    check_columns(name, table, ["sentences", "question", "answer", "options"])
    strings(name, table, "question")
    answers, options = table["answer"][:], table["options"][:]
    for i, (answer, words) in enumerate(zip(answers, options, strict=True)):
        has_choice = isinstance(words, list) and all(isinstance(word, str) for word in words) and len(set(words)) > 1
        if not has_choice or answer not in words:
            raise InputError(f"question {i} of {name} has the answer {answer!r}, but the options {words}; get it again")
    most = max(map(len, options))

    def context(row):
        if not isinstance(row["sentences"], list):
            raise TypeError(f"its sentences are {reprlib.repr(row['sentences'])}, not a list")
        return " ".join(row["sentences"])

    def endings(row):
        wrong = next(word for word in row["options"] if word != row["answer"])
        filled = row["options"] + [wrong] * (most - len(row["options"]))
        return tuple(" " + row["question"].replace("XXXXX", word, 1) for word in filled)

    return Cloze(
        name,
        LazyItems(table.select_columns("sentences"), context, name),
        LazyItems(table.select_columns(["question", "answer", "options"]), endings, name),
        np.array([words.index(answer) for answer, words in zip(answers, options, strict=True)]),
    )


def plain_text(split: str, source: str | None = None) -> Corpus:
    """Loads plain text for language modelling.

    Args:
      split: "train", "validation" or "test", or another split of the source.
      source: a folder with `SPLIT/**/*.txt` or `SPLIT*.txt` in UTF-8, one document in each file. Or a folder in the
        hub's layout, or a hub id, with one document in each entry of the column `text`. Empty entries are left out. If
        every entry is one line with its line break, as in wikitext, the entries are the lines of one document.
    """
    if source is None:
        raise InputError("plain text needs a source; add --data-source, a folder with train*.txt or a hub id")
    name, folder = f"{source}, {split}", Path(source)
    if folder.is_dir() and (files := local_files([folder], split, [".txt"])):
        documents = [read_text(path) for path in files]
        if not any(map(str.strip, documents)):
            raise InputError(f"{name} has no text in {files[0]}{' and more' * (len(files) > 1)}; choose another source")
        return Corpus(name, documents)
    if folder.is_dir() and not local_files([folder], split):
        raise InputError(
            f"no files of the split {split!r} in {folder}; it should hold {split}*.txt, "
            f"{split}/**/*.txt or {split}-*.parquet (or .jsonl)"
        )
    import pyarrow.compute as pc

    table = read(source, None, split, source)
    check_columns(name, table, ["text"])
    if getattr(table.features["text"], "dtype", None) not in ("string", "large_string"):
        raise InputError(f"the column 'text' of {name} holds {table.features['text']}, not strings; choose another set")
    full = table.data.column("text")  # computed by Arrow, for corpora of millions of entries
    has_text = np.array(pc.match_substring_regex(full, r"\S").fill_null(False))
    if not has_text.any():
        raise InputError(f"{name} has no text in its column text; choose another split or source")
    if pc.all(pc.match_substring_regex(full.filter(has_text), r"\A[^\n]*\n\z")).as_py():
        return Corpus(name, ["".join(text or "" for text in table["text"][:])])
    rows = LazyItems(table.select_columns("text"), lambda row: row["text"], name)
    return Corpus(name, Selected(rows, np.flatnonzero(has_text)))


DATASETS: dict[str, Callable[[str, str | None], Dataset]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagenet,
    **{f"glue/{task}": functools.partial(glue, task) for task in GLUE},
    **{f"cbt/{kind}": functools.partial(cbt, kind) for kind in ("CN", "NE", "V", "P")},
    "text": plain_text,
}
"""Data sets by name. Each is a function from the split, and an optional folder or hub id that replaces the default, to
the data."""
