"""The tokenizer that train.tokenizer makes, and the one that the repository carries."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.command import command
from helpers.paths import ROOT
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prism_jax import weights
from prism_jax.models.gpt2 import GPT2LMHeadModel
from prism_jax.tasks import likelihood

SHIPPED = ROOT / "configs/models/gpt2_tales"
pytestmark = pytest.mark.usefixtures("quick_to_compile")

TEXT = "Once upon a time there was a king.  He had a crown, a crow and a crowd.\n" * 9


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "train.txt").write_text(TEXT)
    return ["--dataset", "text", "--data-source", folder]


def test_it_is_a_byte_level_bpe_of_gpt2s_kind(source, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [*source, "--vocab-size", 280, "--out", out]
    assert command("train.tokenizer", *flags) == 0, capsys.readouterr().err
    assert "tokenizer.json: 280 tokens, from 1 texts" in capsys.readouterr().out
    (out / "config.json").write_text('{"model_type": "gpt2"}')
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    seen, unseen = (tokenizer(text)["input_ids"] for text in (TEXT, "Étoile 星\t"))
    assert [tokenizer.decode(ids) for ids in (seen, unseen)] == [TEXT, "Étoile 星\t"]
    assert len(seen) < len(TEXT) / 2
    tokens, num_bytes = likelihood.windows(tokenizer, [TEXT], 16)
    assert tokens.ids[0][0] == tokenizer.eos_token_id
    assert num_bytes.sum() == len(TEXT.encode())
    assert command("train.tokenizer", *flags) == 2
    assert "holds a tokenizer already; choose another --out" in capsys.readouterr().err


def test_a_run_that_fails_leaves_nothing_and_can_be_repeated(source, tmp_path, monkeypatch, capsys):
    real, out = PreTrainedTokenizerFast.save_pretrained, tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")

    def on_a_full_disk(self, folder):
        (Path(folder) / "tokenizer.json").write_text('{"half')
        raise Exception("No space left on device (os error 28)")

    flags = [*source, "--vocab-size", 280, "--out", out]
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", on_a_full_disk)
    assert command("train.tokenizer", *flags) == 1
    printed = (
        f"error: the tokenizer can't be written to {out}: No space left on device (os error 28); "
        "make room, and run the command again\n"
    )
    assert capsys.readouterr().err == printed
    assert [path.name for path in out.iterdir()] == ["config.json"]
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", real)
    assert command("train.tokenizer", *flags) == 0
    assert {path.name for path in out.iterdir()} == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert AutoTokenizer.from_pretrained(out).eos_token == "<|endoftext|>"


def test_what_can_not_be_is_refused(source, tmp_path, capsys):
    out = ["--out", tmp_path / "out"]
    assert command("train.tokenizer", *source, "--vocab-size", 256, *out) == 2
    assert "vocab_size is 256; choose 257 or more" in capsys.readouterr().err
    assert command("train.tokenizer", "--dataset", "nothing", "--vocab-size", 300, *out) == 2
    assert "unknown dataset 'nothing'" in capsys.readouterr().err
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.jsonl").write_text(json.dumps({"sentence": "good", "label": 1}) + "\n")
    labelled = ["--dataset", "glue/sst2", "--data-source", tmp_path, "--vocab-size", 300]
    assert command("train.tokenizer", *labelled, *out) == 2
    assert "GLUE SST-2, train is not plain text" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_model_to_train_from_scratch():
    """4 blocks of 12 D^2 + 13 D, tables of 4,096 tokens and 256 positions, a norm."""
    loaded = weights.load(GPT2LMHeadModel, str(SHIPPED), fresh=("encoder",))
    count = sum(np.size(x) for x in jax.tree.leaves(loaded.params))
    assert count == 4 * (12 * 256**2 + 13 * 256) + (4096 + 256) * 256 + 2 * 256
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    assert len(tokenizer) == 4096
    assert tokenizer.decode(tokenizer("Once upon a time, 星")["input_ids"]) == "Once upon a time, 星"
    assert (SHIPPED / "tokenizer.json").stat().st_size < 400_000
    command = "python -m train.tokenizer --dataset tales --vocab-size 4096 --out configs/models/gpt2_tales"
    assert command in (SHIPPED / "README.md").read_text()
