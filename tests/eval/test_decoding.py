"""Generation: its output, and the end of a text."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eval.generating.stream import stop_tokens, stream_texts
from prism_jax.generation import Step
from prism_jax.sampling import GREEDY


@pytest.fixture(scope="module")
def tokenizer():
    """A token for each byte, as GPT-2 writes them, and an end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    bytewise.pre_tokenizer, bytewise.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<|endoftext|>")


@pytest.mark.parametrize(
    ("whole", "cut"),
    [
        ("héllo wörld", None),
        ("ein Wort 語", -1),
        ("a 🙂", -1),
        ("a 🙂", -3),
        ("🙂", 1),
        ("ab\ufffd", None),
        ("語" * 3, 4),
    ],
)
def test_a_text_is_the_tokenizer_s_own_of_all_its_tokens(tokenizer, whole, cut, capsys):
    """Where it ends inside a character too; beside a text that ends earlier."""
    ids = [tokenizer(whole)["input_ids"][:cut], tokenizer("of")["input_ids"]]

    def stream(*args, **kwargs):
        for i in range(max(map(len, ids))):
            here = np.array([row for row in (0, 1) if i < len(ids[row])])
            tokens = np.array([ids[row][i] for row in here])
            yield Step(here, tokens, np.array([i + 1 == len(ids[row]) for row in here]))

    added = stream_texts(SimpleNamespace(stream=stream), tokenizer, ["One: ", "Two: "], ids, 50, GREEDY, ())
    assert added == [tokenizer.decode(one) for one in ids]
    assert capsys.readouterr().out == f"One: {added[0]}\n\nTwo: {added[1]}\n"


def test_a_character_is_printed_when_it_is_whole(tokenizer, capsys):
    ids = tokenizer("é")["input_ids"]
    printed = []

    def stream(*args, **kwargs):
        for i, token in enumerate(ids):
            yield Step(np.array([0]), np.array([token]), np.array([i + 1 == len(ids)]))
            printed.append(capsys.readouterr().out)

    stream_texts(SimpleNamespace(stream=stream), tokenizer, [">"], [ids], 2, GREEDY, ())
    assert printed == [">", "é\n"]


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": 3}, {"eos_token_id": 4}, (3,)),
        ({"eos_token_id": [3, 5]}, {"eos_token_id": 4}, (3, 5)),
        ({"eos_token_id": None}, {"eos_token_id": 4}, ()),
        ({"do_sample": True}, {"eos_token_id": [4, 6]}, (4, 6)),
        (None, {"eos_token_id": 4}, (4,)),
        (None, {"eos_token_id": None}, (256,)),  # the tokenizer's
        (None, {}, (256,)),
    ],
)
def test_what_ends_a_text(tokenizer, generation, config, expected, tmp_path):
    for name, content in [("generation_config", generation), ("config", config)]:
        if content is not None:
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert stop_tokens(tokenizer, tmp_path, None) == expected
    assert stop_tokens(tokenizer, tmp_path, "a") == tuple(tokenizer("a")["input_ids"])


@pytest.mark.parametrize("output", ["</s>", [1, "2"], 1.0, True, -1, [None], {"id": 1}])
def test_an_end_of_text_that_is_no_id_is_refused(tokenizer, output, tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": output}))
    with pytest.raises(
        ValueError, match="generation_config.json can.t be read: eos_token_id.*; give --stop, or correct it"
    ):
        stop_tokens(tokenizer, tmp_path, None)
