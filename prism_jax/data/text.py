"""Texts as arrays of token ids, by Hugging Face tokenizers."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from prism_jax.assets import hub
from prism_jax.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
"""What a folder with a tokenizer holds; without them transformers makes up one that knows no word."""


def load_tokenizer(folder: Path | None, vocab_size: int) -> "PreTrainedTokenizerBase":
    """The Hugging Face tokenizer in `folder`.

    Raises:
      InputError: if there is none, transformers refuses it, it names code of its own, or it knows a token that has no
        row in the model's table.
    """
    if folder is None or not any((folder / name).is_file() for name in TOKENIZER_FILES):
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


def check_ids(ids: Any, rows: int, where: str, what: str = "token id") -> None:
    """Raises InputError unless all ids are whole numbers that have a row in the model's table.

    Args:
      ids: of any shape.
      rows: of the table.
      where: what holds them, for the message.
      what: the kind of the ids, for the message.
    """
    ids = np.asarray(ids)
    if ids.size and ids.dtype.kind not in "iu":
        raise InputError(f"{where} holds {ids.dtype} in place of each {what}; give whole numbers from 0 to {rows - 1}")
    outside = ids[(ids < 0) | (ids >= rows)]
    if outside.size:
        worst = outside.max() if (outside >= rows).any() else outside.min()
        raise InputError(
            f"{where} holds the {what} {worst}, but the model's table has {rows} rows, 0 to {rows - 1}; "
            "use the tokenizer that belongs to the model"
        )


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts, each in its own length.

    Attributes:
      ids: int32 arrays, one a text.
      types: int32, which text of a pair a token belongs to.
      pad: id and type of padding.
      left: whether padding stands on the left.
    """

    ids: Sequence[np.ndarray]
    types: Sequence[np.ndarray]
    pad: tuple[int, int] = (0, 0)
    left: bool = False

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text."""
        return np.array([len(ids) for ids in self.ids], int)

    def check(self, rows: int, type_rows: int) -> None:
        """Raises InputError unless every id and type, that of padding too, has a row in the model's tables."""
        pad_id, pad_type = self.pad
        check_ids(np.concatenate([[pad_id], *self.ids]), rows, "the tokenised text")
        check_ids(np.concatenate([[pad_type], *self.types]), type_rows, "the tokenised text", "token type")

    def padded(self, index: Sequence[int] | np.ndarray, num_tokens: int) -> dict[str, np.ndarray]:
        """The texts at `index` as arrays [examples, N], padded up to N: `ids` and `types` int32, `mask` bool."""
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
"""Texts that a tokenizer gets at a time."""


def string(text: Any, i: int, of: str) -> str:
    """The text of example `i` of the data `of`, if it is one.

    Raises:
      InputError: if it is something else.
    """
    if not isinstance(text, str):
        raise InputError(f"example {i} of {of} is {reprlib.repr(text)} in place of a text; leave it out")
    return text


def cut(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    num_tokens: int,
    pairs: Sequence[str] | None = None,
    of: str = "the texts",
) -> Tokens:
    """Tokenises texts, or pairs of them, and cuts them at N tokens.

    Raises:
      InputError: if N tokens are too few for the special ones and a word, or an example is no text or gives no tokens.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    if num_tokens <= special:
        raise InputError(f"num_tokens is {num_tokens}, but {special} of them are special; choose {special + 1} or more")
    ids, types = [], []
    progress = tqdm(total=len(texts), desc="tokenising", unit="text", leave=False, disable=None)
    for start in range(0, len(texts), CHUNK):
        chunk = slice(start, start + CHUNK)
        out = tokenizer(
            [string(text, i, of) for i, text in enumerate(texts[chunk], start)],
            None if pairs is None else [string(text, i, of) for i, text in enumerate(pairs[chunk], start)],
            truncation=True,
            max_length=num_tokens,
            return_token_type_ids=True,
        )
        ids += [np.array(one, np.int32) for one in out["input_ids"]]
        types += [np.array(one, np.int32) for one in out["token_type_ids"]]
        progress.update(len(out["input_ids"]))
    progress.close()
    if empty := [i for i, one in enumerate(ids) if not len(one)]:
        raise InputError(f"example {empty[0]} of {of} is a text without tokens; leave it out")
    pad = (tokenizer.pad_token_id or 0, tokenizer.pad_token_type_id)
    return Tokens(ids, types, pad, tokenizer.padding_side == "left")


def tokenize(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], num_tokens: int, pairs: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Texts, or pairs of them, as arrays [examples, N]: cut at N tokens, padded up to N on the tokenizer's side.

    Returns:
      `ids` and `types` int32, `mask` bool.

    Raises:
      InputError: if N tokens are too few for the special ones and a word, or an example is no text or gives no tokens.
    """
    return cut(tokenizer, texts, num_tokens, pairs).padded(range(len(texts)), num_tokens)


def bucket_lengths(buckets: Sequence[int], num_tokens: int) -> tuple[int, ...]:
    """The lengths to which rows are padded: the buckets, and N.

    Raises:
      InputError: if a bucket is longer than N, or there is none of that length.
    """
    if wrong := [bucket for bucket in buckets if not 1 <= bucket <= num_tokens]:
        raise InputError(f"a bucket of {wrong[0]} tokens; choose lengths from 1 to num_tokens, {num_tokens}")
    return tuple(sorted({*buckets, num_tokens}))


def bucket_of(lengths: np.ndarray, buckets: Sequence[int]) -> np.ndarray:
    """The bucket of each row: the shortest that holds it. It depends on nothing but the row itself."""
    return np.array(buckets)[np.searchsorted(buckets, lengths)]
