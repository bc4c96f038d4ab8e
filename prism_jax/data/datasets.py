"""What a data set is: a frozen value of one of three kinds.

`Labelled`: texts, pairs of texts or images, with a label each. `Corpus`: plain text, to model. `Cloze`: contexts, each
with several endings of which one is right. Inputs are sequences, maybe lazy ones: an image is decoded when it is
asked for.
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
    """Some items of a sequence, each read when it is asked for."""

    items: Sequence[Item]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> Item: ...
    @overload
    def __getitem__(self, i: slice) -> "Selected[Item]": ...
    def __getitem__(self, i):
        return Selected(self.items, self.rows[i]) if isinstance(i, slice) else self.items[int(self.rows[i])]


@dataclass(frozen=True)
class Rows(Sequence):
    """Items that are made when they are asked for, each from what is stored of it.

    Attributes:
      stored: such as a `datasets.Dataset`, whose items are rows by column.
      item: from what is stored to the item.
      name: of the data, for errors.
    """

    stored: Any
    item: Callable[[Any], Any]
    name: str

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return Selected(self, np.arange(len(self))[i])
        row = self.stored[int(i)]
        try:
            return self.item(row)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(
                f"example {i} of {self.name} is too large: {one_line(error)}; scale the image down, or leave it out"
            ) from error
        except Exception as error:  # whatever Pillow makes of a damaged image
            raise InputError(f"example {i} of {self.name} can't be read: {one_line(error)}; get it again") from error


@dataclass(frozen=True)
class FileBytes(Sequence[bytes]):
    """What files hold, each read when it is asked for."""

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
class Elsewhere(Sequence):
    """Items of which this process knows the number alone: they lie with the terminal."""

    number: int

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, i: Any) -> Any:
        raise LookupError("these examples lie with the terminal, process 0")


@dataclass(frozen=True)
class Labelled:
    """Texts, pairs of texts, or images, with a label each.

    Attributes:
      name: of the data set and its split.
      inputs: "text" (and "pair", for pairs) of strings, or "image" of Pillow's images; sequences of one length.
      labels: int [examples]; float where the label is a number to predict; None where the split has none.
      label_names: the classes, by label; empty where the label is a number.
      metrics: keys of `metrics.METRICS`, the official ones of the set; the first is the score.
    """

    name: str
    inputs: Mapping[str, Sequence[Any]]
    labels: np.ndarray | None
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy_percent",)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, index: np.ndarray) -> "Labelled":
        """The examples at `index`."""
        inputs = {name: Selected(items, index) for name, items in self.inputs.items()}
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[index])


@dataclass(frozen=True)
class Corpus:
    """Plain text.

    Attributes:
      name: of the data set and its split.
      documents: one string each. No example reaches from one into the next.
    """

    name: str
    documents: Sequence[str]

    def __len__(self) -> int:
        return len(self.documents)

    def take(self, index: np.ndarray) -> "Corpus":
        """The documents at `index`."""
        return replace(self, documents=Selected(self.documents, index))


@dataclass(frozen=True)
class Cloze:
    """Contexts with several endings each, one of them right.

    Attributes:
      name: of the data set and its split.
      contexts: what stands before the endings.
      endings: as many for every context; each goes on where the context ends.
      answers: int [examples], which ending is right.
    """

    name: str
    contexts: Sequence[str]
    endings: Sequence[tuple[str, ...]]
    answers: np.ndarray

    def __len__(self) -> int:
        return len(self.contexts)

    def take(self, index: np.ndarray) -> "Cloze":
        """The examples at `index`."""
        contexts, endings = Selected(self.contexts, index), Selected(self.endings, index)
        return replace(self, contexts=contexts, endings=endings, answers=self.answers[index])


Dataset = Labelled | Corpus | Cloze


def outline(dataset: Dataset) -> Dataset:
    """A data set without its texts or images: what the processes beside the terminal know of it."""
    count = Elsewhere(len(dataset))
    if isinstance(dataset, Labelled):
        return replace(dataset, inputs=dict.fromkeys(dataset.inputs, count))
    if isinstance(dataset, Corpus):
        return replace(dataset, documents=count)
    return replace(dataset, contexts=count, endings=count)


def contents(dataset: Dataset) -> dict[str, Any]:
    """What tells a data set from another one: its number of examples,
    and for each column of it a digest of what is stored.

    Images are taken as they are stored, in bytes, where they are decoded when they are asked for.
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
    """How the `contents` of a data set differ from those before, in a few words; none where they don't."""
    if before["examples"] != now["examples"]:
        return f"{now['examples']} examples, where there were {before['examples']}"
    differing = ", ".join(name for name in now if now[name] != before.get(name))
    return differing and f"another {differing}"


def digest(items: Iterable[Any]) -> str:
    """Of texts, images or numbers, as they are stored."""
    sha = hashlib.sha256()
    for item in _stored(items):
        for part in _parts(item):
            sha.update(part)
    return sha.hexdigest()


def _stored(items: Any) -> Any:
    if isinstance(items, Selected):
        return Selected(_stored(items.items), items.rows)
    return items.stored if isinstance(items, Rows) else items


def _parts(value: Any) -> Iterable[bytes]:
    """A value as bytes, each part with its kind and length in front, so that no two values give the same."""
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


def even_rows(length: int, limit: int) -> np.ndarray:
    """Of `length` examples `limit` at even distances, so that a data set sorted by class keeps its mixture;
    all with 0."""
    if limit < 0:
        raise InputError(f"limit is {limit}; choose a number of examples, or 0 for all")
    if limit == 0 or limit >= length:
        return np.arange(length)
    return (np.arange(limit) * 2 + 1) * length // (2 * limit)


def subset(dataset: Dataset, limit: int) -> Dataset:
    """The examples at `even_rows`."""
    rows = even_rows(len(dataset), limit)
    return dataset if len(rows) == len(dataset) else dataset.take(rows)


def check_split(name: str, split: str, allowed: Sequence[str] = ("train", "test")) -> None:
    """Raises InputError if a data set has no such split."""
    if split not in allowed:
        raise InputError(f"{name} has no split {split!r}; choose one of {', '.join(allowed)}")


def pieces(corpus: Corpus, length: int) -> Corpus:
    """The documents, cut between words into pieces of about `length` characters, with nothing left out."""
    piece = re.compile(rf".{{1,{length}}}\S*\s*", re.DOTALL)
    return replace(corpus, documents=[part for document in corpus.documents for part in piece.findall(document)])
