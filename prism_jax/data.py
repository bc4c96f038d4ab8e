"""Labelled texts, and the batches made of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from prism_jax import assets
from prism_jax.errors import InputError
from prism_jax.exchange import WholeSequence
from prism_jax.forward import forward, params_shapes, parts_shapes
from prism_jax.runners import on_one_device


@dataclass(frozen=True)
class TextDataset:
    """Texts with a class each.

    Attributes:
      name: of the data set and its split.
      texts: one string an example.
      labels: int [examples].
      label_names: the classes, by label.
    """

    name: str
    texts: list[str]
    labels: np.ndarray
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


def newsgroups(split: str) -> TextDataset:
    """20 Newsgroups, "train" (11,293 documents) or "test" (7,528): topics of Usenet posts, lower case, letters only."""
    folder = assets.fetch(assets.NEWSGROUPS)
    return read_tab(folder / f"20newsgroups-{split}.tab", f"20 Newsgroups, {split}")


DATASETS = {"newsgroups": newsgroups}
"""Data sets by name: functions from the split to the data."""


def load(name: str | None, split: str) -> TextDataset:
    """A data set by name.

    Raises:
      InputError: if the name is unknown.
      AssetError: if it can't be had.
    """
    if name is None:
        raise InputError(f"this config has no dataset; add --dataset, one of {', '.join(DATASETS)}")
    if name not in DATASETS:
        raise InputError(f"unknown dataset {name!r}; known are {', '.join(DATASETS)}")
    return DATASETS[name](split)


def read_tab(path: Path, name: str) -> TextDataset:
    """Reads lines of `label<TAB>text` below three header lines; rows without a label are dropped. Classes in alphabetic order."""
    rows = [
        line.split("\t", 1)
        for line in path.read_text(encoding="utf-8").split("\n")[3:]
        if "\t" in line and not line.startswith("\t")
    ]
    label_names = tuple(sorted({label for label, _ in rows}))
    labels = np.array([label_names.index(label) for label, _ in rows])
    return TextDataset(name, [text for _, text in rows], labels, label_names)


def subset(dataset: TextDataset, limit: int) -> TextDataset:
    """`limit` examples at even distances over the data set, so that one sorted by class keeps its mixture; all with 0."""
    if limit < 0:
        raise InputError(f"limit is {limit}; choose a number of examples, or 0 for all")
    if limit == 0 or limit >= len(dataset):
        return dataset
    chosen = (np.arange(limit) * 2 + 1) * len(dataset) // (2 * limit)
    return TextDataset(dataset.name, [dataset.texts[i] for i in chosen], dataset.labels[chosen], dataset.label_names)


def check_classifier(model: nn.Module, num_labels: int, num_tokens: int) -> None:
    """Raises InputError if a model does not tell the class of a text."""
    name = type(model).__name__
    if "ids" not in model.batch_shapes(1, num_tokens):
        raise InputError(f"{name} takes no texts; choose a model such as BertForSequenceClassification")
    run = on_one_device(1)
    answer = jax.eval_shape(
        lambda params, parts: forward(model, params, parts, WholeSequence(), run),
        params_shapes(model),
        parts_shapes(model, 1, 1, num_tokens),
    )
    if getattr(answer, "shape", None) != (1, num_labels):
        raise InputError(f"{name} gives no class to a text; choose a model such as BertForSequenceClassification")


TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
"""What a folder with a tokenizer holds; without them transformers makes up one that knows no word."""


def load_tokenizer(folder: Path | None, vocab_size: int):
    """The Hugging Face tokenizer in `folder`.

    Raises:
      InputError: if there is none, or it knows more tokens than the model's table has rows.
    """
    if folder is None or not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"no tokenizer in {folder}; one of {', '.join(TOKENIZER_FILES)} must lie beside the weights")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) > vocab_size:
        raise InputError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, but the model's table {vocab_size} rows; they don't belong together"
        )
    return tokenizer


def tokenize(tokenizer, texts: list[str], num_tokens: int, pairs: list[str] | None = None) -> dict[str, np.ndarray]:
    """Texts, or pairs of them, as arrays [examples, N]: cut at N tokens, padded up to N on the tokenizer's side.

    Returns:
      `ids` and `types` int32, `mask` bool.

    Raises:
      InputError: if N tokens are too few for the special ones and a word.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    if num_tokens <= special:
        raise InputError(f"num_tokens is {num_tokens}, but {special} of them are special; choose {special + 1} or more")
    asked = {"truncation": True, "padding": "max_length", "max_length": num_tokens, "return_tensors": "np"}
    out = tokenizer(texts, pairs, return_token_type_ids=True, return_attention_mask=True, **asked)
    return {
        "ids": out["input_ids"].astype(np.int32),
        "types": out["token_type_ids"].astype(np.int32),
        "mask": out["attention_mask"].astype(bool),
    }


def batches(arrays: dict[str, np.ndarray], batch_size: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Consecutive batches of one shape, each with its number of examples; the last one is filled up with its last example."""
    examples = len(next(iter(arrays.values())))
    for start in range(0, examples, batch_size):
        index = np.minimum(np.arange(start, start + batch_size), examples - 1)
        yield {name: array[index] for name, array in arrays.items()}, min(batch_size, examples - start)
