"""Texts as arrays of token ids, with Hugging Face tokenizers."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
"""Files of a tokenizer, of which a folder needs one. Without any, transformers creates a tokenizer with an empty
vocabulary."""


def load_tokenizer(folder: str | Path | None, vocab_size: int) -> "PreTrainedTokenizerBase":
    """Returns the Hugging Face tokenizer in `folder`.

    Raises:
      InputError: if there is no tokenizer, transformers refuses it, its config names code, or one of its ids has no row
        in the model's table.
    """
    folder = folder and Path(folder)
    if not folder or not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"no tokenizer in {folder}; one of {', '.join(TOKENIZER_FILES)} must lie beside the weights")
    from transformers import AutoTokenizer

    tokenizer = hub.open_without_code(AutoTokenizer.from_pretrained, folder / "tokenizer_config.json")
    check_ids(list(tokenizer.get_vocab().values()), vocab_size, f"the tokenizer in {folder}")
    return tokenizer


def class_id(folder: Path | None, vocab_size: int) -> int:
    """Returns the id of the class token, `[CLS]`, of the tokenizer in `folder`.

    Raises:
      InputError: as `load_tokenizer`, or if it has no class token.
    """
    tokenizer = load_tokenizer(folder, vocab_size)
    if tokenizer.cls_token_id is None:
        raise InputError(f"the tokenizer in {folder} has no class token; choose a model without class tokens on parts")
    return tokenizer.cls_token_id


def check_ids(ids: Any, rows: int, where: str, kind: str = "token id") -> None:
    """Raises InputError unless all ids are whole numbers with a row in the model's table.

    Args:
      ids: numbers, of any shape.
      rows: number of rows of the table.
      where: name of the text or file that holds the ids, for the message.
      kind: kind of the ids, for the message.
    """
    ids = np.asarray(ids)
    if ids.size and ids.dtype.kind not in "iu":
        raise InputError(f"{where} holds {ids.dtype} in place of each {kind}; give whole numbers from 0 to {rows - 1}")
    outside = ids[(ids < 0) | (ids >= rows)]
    if outside.size:
        worst = outside.max() if (outside >= rows).any() else outside.min()
        raise InputError(
            f"{where} holds the {kind} {worst}, but the model's table has {rows} rows, 0 to {rows - 1}; "
            "use the tokenizer that belongs to the model"
        )


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts without padding.

    Attributes:
      ids: int32 arrays, one for each text.
      types: int32 arrays, one for each text: the index within a pair that a token belongs to.
      pad: id and type of padding.
      left: whether padding goes on the left.
    """

    ids: Sequence[np.ndarray]
    types: Sequence[np.ndarray]
    pad: tuple[int, int] = (0, 0)
    left: bool = False

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text."""
        return np.array([len(ids) for ids in self.ids], int)

    def take(self, index: np.ndarray) -> "Tokens":
        """Returns the texts at `index`."""
        return replace(self, ids=[self.ids[i] for i in index], types=[self.types[i] for i in index])

    def check(self, rows: int, type_rows: int) -> None:
        """Raises InputError unless every id and type, including those of padding, has a row in the model's tables.
        A model without types, with `type_rows` 0, ignores them."""
        pad_id, pad_type = self.pad
        check_ids(np.concatenate([[pad_id], *self.ids]), rows, "the tokenised text")
        if type_rows:
            check_ids(np.concatenate([[pad_type], *self.types]), type_rows, "the tokenised text", "token type")

    def padded(self, index: Sequence[int] | np.ndarray, num_tokens: int) -> dict[str, np.ndarray]:
        """Returns the texts at `index` as arrays [examples, N], padded up to N: `ids` and `types` int32, `mask`
        bool."""
        shape = (len(index), num_tokens)
        arrays = {"ids": np.full(shape, self.pad[0], np.int32), "types": np.full(shape, self.pad[1], np.int32)}
        arrays["mask"] = np.zeros(shape, bool)
        for row, i in enumerate(index):
            length = len(self.ids[i])
            place = slice(num_tokens - length, None) if self.left else slice(length)
            arrays["ids"][row, place], arrays["types"][row, place] = self.ids[i], self.types[i]
            arrays["mask"][row, place] = True
        return arrays


CHUNK = 4096
"""Number of texts that a tokenizer gets at a time."""


def string(text: Any, i: int, data_name: str) -> str:
    """Returns the text of example `i`, if it is a string.

    Raises:
      InputError: if it has another type.
    """
    if not isinstance(text, str):
        raise InputError(f"example {i} of {data_name} is {reprlib.repr(text)} in place of a text; leave it out")
    return text


def cut(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    num_tokens: int,
    pairs: Sequence[str] | None = None,
    data_name: str = "the texts",
) -> Tokens:
    """Tokenises texts, or pairs of texts, and cuts them at N tokens.

    Raises:
      InputError: if N tokens are too few for the special tokens and a word, an example is no text, or it has no
        tokens.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    if num_tokens <= special:
        raise InputError(f"num_tokens is {num_tokens}, but {special} of them are special; choose {special + 1} or more")
    ids, types = [], []
    progress = Progress(total=len(texts), desc="tokenising", unit="text")
    for start in range(0, len(texts), CHUNK):
        chunk = slice(start, start + CHUNK)
        out = tokenizer(
            [string(text, i, data_name) for i, text in enumerate(texts[chunk], start)],
            None if pairs is None else [string(text, i, data_name) for i, text in enumerate(pairs[chunk], start)],
            truncation=True,
            max_length=num_tokens,
            return_token_type_ids=True,
        )
        ids += [np.array(text_ids, np.int32) for text_ids in out["input_ids"]]
        types += [np.array(text_types, np.int32) for text_types in out["token_type_ids"]]
        progress.update(len(out["input_ids"]))
    progress.close()
    if empty := [i for i, text_ids in enumerate(ids) if not len(text_ids)]:
        raise InputError(f"example {empty[0]} of {data_name} is a text without tokens; leave it out")
    pad = (tokenizer.pad_token_id or 0, tokenizer.pad_token_type_id)
    return Tokens(ids, types, pad, tokenizer.padding_side == "left")


def tokenize(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], num_tokens: int, pairs: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Returns texts, or pairs of texts, as arrays [examples, N]: cut at N tokens, padded up to N on the tokenizer's
    side.

    Returns:
      `ids` and `types` int32, `mask` bool.

    Raises:
      InputError: if N tokens are too few for the special tokens and a word, an example is no text, or it has no
        tokens.
    """
    return cut(tokenizer, texts, num_tokens, pairs).padded(range(len(texts)), num_tokens)


def bucket_lengths(buckets: Sequence[int], num_tokens: int) -> tuple[int, ...]:
    """Returns the lengths to which texts are padded: the buckets, and N.

    Raises:
      InputError: if a bucket is longer than N or below 1.
    """
    if wrong := [bucket for bucket in buckets if not 1 <= bucket <= num_tokens]:
        raise InputError(f"a bucket of {wrong[0]} tokens; choose lengths from 1 to num_tokens, {num_tokens}")
    return tuple(sorted({*buckets, num_tokens}))


def bucket_of(lengths: np.ndarray, buckets: Sequence[int]) -> np.ndarray:
    """Returns the bucket of each text: the shortest that holds it. It depends only on the text's length."""
    return np.array(buckets)[np.searchsorted(buckets, lengths)]
