"""Trains a byte-level BPE tokenizer like GPT-2's on the training split of a data set of plain text.

python -m train.tokenizer --dataset tales --vocab-size 4096 --out DIR [--data-source FOLDER]
    -> DIR/tokenizer.json, DIR/tokenizer_config.json, which transformers' AutoTokenizer opens
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from prism_jax import data
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.data.datasets import Corpus
from prism_jax.errors import InputError, RunError, one_line
from prism_jax.progress import Progress
from prism_jax.records import MOST
from prism_jax.user_paths import UserPath

END = "<|endoftext|>"
"""Token between two texts: the beginning of one and the end of the previous one."""


@dataclass(frozen=True)
class TrainTokenizer:
    dataset: str
    """Name of the data set."""
    vocab_size: Annotated[int, Meta(ge=257, le=MOST, description="257 or more: 256 bytes and the end of a text")]
    """Largest number of tokens: 256 bytes, the end of a text, and merges."""
    out: UserPath
    """Folder for the tokenizer."""
    data_source: UserPath | None = None
    """Folder in the hub's layout, or hub id, that replaces the data set's default source."""


def byte_level_bpe(documents: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Returns a tokenizer of at most `vocab_size` tokens. Small texts give fewer tokens, as a merge must occur
    twice."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(Progress(documents, "texts", unit="text"), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def save(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the files of a tokenizer into a folder. tokenizer.json comes last, and marks a complete tokenizer.

    Raises:
      RunError: if they can't be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".partial_", dir=out) as partial:
            tokenizer.save_pretrained(partial)
            for path in sorted(Path(partial).iterdir(), reverse=True):  # tokenizer_config.json, tokenizer.json
                path.replace(out / path.name)
    except Exception as error:  # the tokenizers library may raise anything for a full disk
        raise RunError(
            f"the tokenizer can't be written to {out}: {one_line(error)}; make room, and run the command again"
        ) from error


def main(argv: list[str]) -> None:
    command = flags.parse_flags(TrainTokenizer, __doc__, argv)
    out = output_folder(command.out)
    if (out / "tokenizer.json").exists():
        raise InputError(f"{command.out} holds a tokenizer already; choose another --out")
    corpus = data.load(command.dataset, "train", command.data_source)
    if not isinstance(corpus, Corpus):
        raise InputError(f"{corpus.name} is not plain text; choose a data set such as tales or text")
    save(tokenizer := byte_level_bpe(corpus.documents, command.vocab_size), out)
    print(f"wrote {out}/tokenizer.json: {len(tokenizer)} tokens, from {len(corpus)} texts")


if __name__ == "__main__":
    run(main, sys.argv[1:])
