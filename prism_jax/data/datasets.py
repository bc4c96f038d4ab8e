"""Data sets as frozen values of three kinds.

`Labelled` has texts, pairs of texts or images, with a label for each. `Corpus` has plain text for language modelling.
`Cloze` has contexts, each with several endings of which one is right. Inputs are sequences that may be lazy: an image
is decoded on access.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from PIL import Image

from prism_jax.errors import InputError, one_line

Item = TypeVar("Item")


@dataclass(frozen=True)
class Selected(Sequence, Generic[Item]):
    """Selected items of a sequence. Each is read on access."""

    items: Sequence[Item]
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, i: int) -> Item: ...
    @overload
    def __getitem__(self, i: slice) -> "Selected[Item]": ...
    def __getitem__(self, i):
        return Selected(self.items, self.chosen[i]) if isinstance(i, slice) else self.items[int(self.chosen[i])]


@dataclass(frozen=True)
class LazyItems(Sequence):
    """Items that are computed on access from a stored form.

    Attributes:
      stored: sequence of the stored forms, for example a `datasets.Dataset`, whose items are dicts by column.
      item: function from a stored form to the item.
      name: name of the data, for errors.
    """

    stored: Any
    item: Callable[[Any], Any]
    name: str

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return Selected(self, np.arange(len(self))[i])
        stored_item = self.stored[int(i)]
        try:
            return self.item(stored_item)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(
                f"example {i} of {self.name} is too large: {one_line(error)}; scale the image down, or leave it out"
            ) from error
        except Exception as error:  # Pillow may raise anything for a damaged image
            raise InputError(f"example {i} of {self.name} can't be read: {one_line(error)}; get it again") from error


@dataclass(frozen=True)
class FileBytes(Sequence[bytes]):
    """Contents of files. Each file is read on access."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, i: int) -> bytes: ...
    @overload
    def __getitem__(self, i: slice) -> "FileBytes": ...
    def __getitem__(self, i):
        if isinstance(i, slice):
            return FileBytes(self.paths[i])
        try:
            return self.paths[i].read_bytes()
        except OSError as error:
            raise InputError(f"{self.paths[i]} can't be read: {error.strerror}; get it again") from error


@dataclass(frozen=True)
class RemoteItems(Sequence):
    """Items that only process 0 has. This process knows their number."""

    number: int

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, i: Any) -> Any:
        raise LookupError("these examples are on process 0")


@dataclass(frozen=True)
class Labelled:
    """Texts, pairs of texts, or images, with a label for each.

    Attributes:
      name: name of the data set and its split.
      inputs: "text" (and "pair", for pairs) with strings, or "image" with Pillow images. All sequences have the same
        length.
      labels: int [examples], the class; float if the label is a number to predict; None if the split has no labels.
      label_names: names of the classes, by label; empty if the label is a number.
      metrics: keys of `metrics.METRICS`: the set's official metrics. The first one is the score.
    """

    name: str
    inputs: Mapping[str, Sequence[Any]]
    labels: np.ndarray | None
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy_percent",)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, index: np.ndarray) -> "Labelled":
        """Returns the examples at `index`."""
        inputs = {name: Selected(items, index) for name, items in self.inputs.items()}
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[index])


@dataclass(frozen=True)
class Corpus:
    """Plain text for language modelling.

    Attributes:
      name: name of the data set and its split.
      documents: one string for each document. No example spans two documents.
    """

    name: str
    documents: Sequence[str]

    def __len__(self) -> int:
        return len(self.documents)

    def take(self, index: np.ndarray) -> "Corpus":
        """Returns the documents at `index`."""
        return replace(self, documents=Selected(self.documents, index))


@dataclass(frozen=True)
class Cloze:
    """Contexts with several endings each, one of them right.

    Attributes:
      name: name of the data set and its split.
      contexts: the text before the endings.
      endings: the same number for every context. Each continues the text of its context.
      answers: int [examples], index of the right ending.
    """

    name: str
    contexts: Sequence[str]
    endings: Sequence[tuple[str, ...]]
    answers: np.ndarray

    def __len__(self) -> int:
        return len(self.contexts)

    def take(self, index: np.ndarray) -> "Cloze":
        """Returns the examples at `index`."""
        contexts, endings = Selected(self.contexts, index), Selected(self.endings, index)
        return replace(self, contexts=contexts, endings=endings, answers=self.answers[index])


Dataset = Labelled | Corpus | Cloze


def outline(dataset: Dataset) -> Dataset:
    """Returns a data set without its texts or images, for the processes other than 0."""
    count = RemoteItems(len(dataset))
    if isinstance(dataset, Labelled):
        return replace(dataset, inputs=dict.fromkeys(dataset.inputs, count))
    if isinstance(dataset, Corpus):
        return replace(dataset, documents=count)
    return replace(dataset, contexts=count, endings=count)


def contents(dataset: Dataset) -> dict[str, Any]:
    """Returns a fingerprint of a data set: its number of examples, and a digest of each column.

    Images that are decoded on access count by their stored bytes.
    """
    columns: dict[str, Iterable[Any]]
    if isinstance(dataset, Labelled):
        labels = () if dataset.labels is None else dataset.labels.tolist()
        columns = {**dataset.inputs, "labels": labels, "label_names": dataset.label_names}
    elif isinstance(dataset, Corpus):
        columns = {"documents": dataset.documents}
    else:
        columns = {"contexts": dataset.contexts, "endings": dataset.endings, "answers": dataset.answers.tolist()}
    return {"examples": len(dataset)} | {name: digest(items) for name, items in columns.items()}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns a short description of how the `contents` of a data set have changed; empty if they have not."""
    if before["examples"] != now["examples"]:
        return f"{now['examples']} examples, where there were {before['examples']}"
    differing = ", ".join(name for name in now if now[name] != before.get(name))
    return differing and f"different {differing}"


def digest(items: Iterable[Any]) -> str:
    """Returns a digest of texts, images or numbers in their stored form."""
    sha = hashlib.sha256()
    for item in _stored(items):
        for part in _parts(item):
            sha.update(part)
    return sha.hexdigest()


def _stored(items: Any) -> Any:
    if isinstance(items, Selected):
        return Selected(_stored(items.items), items.chosen)
    return items.stored if isinstance(items, LazyItems) else items


def _parts(value: Any) -> Iterable[bytes]:
    """Yields a value as bytes. Each piece is preceded by its kind and length, so different values never give the same
    bytes."""
    if isinstance(value, Image.Image):
        value = (value.mode, value.size, value.tobytes())
    if isinstance(value, Mapping):
        value = tuple(part for item in value.items() for part in item)
    if isinstance(value, tuple | list):
        yield f"{len(value)} parts ".encode()
        for part in value:
            yield from _parts(part)
        return
    written = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    yield f"{type(value).__name__} {len(written)} ".encode()
    yield written


def even_indices(length: int, limit: int) -> np.ndarray:
    """Returns the indices of `limit` examples at even distances among `length`; all for 0. A data set sorted by class
    keeps its class shares."""
    if limit < 0:
        raise InputError(f"limit is {limit}; choose a number of examples, or 0 for all")
    if limit == 0 or limit >= length:
        return np.arange(length)
    return (np.arange(limit) * 2 + 1) * length // (2 * limit)


def subset(dataset: Dataset, limit: int) -> Dataset:
    """Returns the examples at `even_indices`."""
    index = even_indices(len(dataset), limit)
    return dataset if len(index) == len(dataset) else dataset.take(index)


def check_split(name: str, split: str, allowed: Sequence[str] = ("train", "test")) -> None:
    """Raises InputError if a data set does not have a split."""
    if split not in allowed:
        raise InputError(f"{name} has no split {split!r}; choose one of {', '.join(allowed)}")


def pieces(corpus: Corpus, length: int) -> Corpus:
    """Cuts the documents between words into pieces of about `length` characters. Nothing is left out."""
    piece = re.compile(rf".{{1,{length}}}\S*\s*", re.DOTALL)
    return replace(corpus, documents=[part for document in corpus.documents for part in piece.findall(document)])
