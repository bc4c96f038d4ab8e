"""Texts, tokens and batches."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from helpers.paths import GOLDEN, ROOT
from PIL import Image

from prism_jax import data
from prism_jax.data import text
from prism_jax.data.datasets import (
    Cloze,
    Corpus,
    FileBytes,
    Labelled,
    LazyItems,
    Selected,
    changes,
    contents,
    pieces,
    subset,
)
from prism_jax.data.packaged.texts import read_tab
from prism_jax.errors import InputError
from prism_jax.experiments.build import load_training_data
from prism_jax.experiments.recipe import Experiment, Training
from prism_jax.models.gpt2 import GPT2LMHeadModel
from prism_jax.tasks import likelihood

pytestmark = pytest.mark.usefixtures("quick_to_compile")

TALES = ROOT / "configs/models/gpt2_tales"
TAB = "Category\tText\nd\tstring\nclass\t\n"


def test_read_tab(tmp_path):
    (tmp_path / "a.tab").write_text(TAB + "b\tsecond \t text\na\tfirst\n\tno class\nb\tthird\n")
    dataset = read_tab(tmp_path / "a.tab", "a")
    assert dataset.inputs["text"] == ["second \t text", "first", "third"]
    assert dataset.label_names == ("a", "b")
    assert dataset.labels.tolist() == [1, 0, 1]


def test_a_subset_is_spread_evenly():
    dataset = Labelled("d", {"text": [str(i) for i in range(100)]}, np.repeat(np.arange(4), 25), tuple("abcd"))
    chosen = subset(dataset, 8)
    assert len(set(chosen.inputs["text"])) == 8
    assert np.bincount(chosen.labels).tolist() == [2, 2, 2, 2]
    assert [int(text) // 25 for text in chosen.inputs["text"]] == chosen.labels.tolist()
    assert len(subset(dataset, 0)) == len(subset(dataset, 100)) == len(subset(dataset, 1000)) == 100
    with pytest.raises(ValueError, match="limit is -1; choose a number of examples, or 0 for all"):
        subset(dataset, -1)


def test_a_text_is_cut_between_words():
    cut = pieces(Corpus("c", ["one two\n three  four", "five", ""]), 5).documents
    assert cut == ["one two\n ", "three  ", "four", "five"]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_something_is_held_out_of_a_single_text(tmp_path, share):
    text = " ".join(f"word{i}" for i in range(2000))
    (tmp_path / "train.txt").write_text(text)
    experiment = Experiment(GPT2LMHeadModel, "", 8, "text", str(tmp_path), training=Training(validation=share))
    train, held_out = (part.documents for part in load_training_data(experiment))
    assert sorted(" ".join([*train, *held_out]).split()) == sorted(text.split())
    assert sum(map(len, held_out)) / len(text) == pytest.approx(share, rel=0.1)


@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_are_cut_and_padded(toy_folder, side):
    tokenizer = text.load_tokenizer(toy_folder, 99)
    tokenizer.padding_side = side
    arrays = text.tokenize(tokenizer, ["w0 w1", "w2 " * 50], 6)
    short = [2, 5, 6, 3]
    assert arrays["ids"].tolist() == [[*short, 0, 0] if side == "right" else [0, 0, *short], [2, 7, 7, 7, 7, 3]]
    assert arrays["mask"].sum(1).tolist() == [4, 6]
    assert arrays["mask"][0].tolist() == (arrays["ids"][0] != 0).tolist()


def test_pairs_have_types(toy_folder):
    arrays = text.tokenize(text.load_tokenizer(toy_folder, 99), ["w0 w1"], 9, ["w2"])
    assert arrays["ids"].tolist() == [[2, 5, 6, 3, 7, 3, 0, 0, 0]]
    assert arrays["types"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0, 0]]


def test_a_tokenizer_of_another_model_is_refused(toy_folder):
    with pytest.raises(
        ValueError, match="holds the token id 98, but the model's table has 50 rows, 0 to 49; use the tokenizer"
    ):
        text.load_tokenizer(toy_folder, 50)


def test_ids_that_the_model_has_not_are_refused(toy_folder, tmp_path):
    """A word far behind the others; a special token, and a type, that stand in the post-processor alone;
    and those of padding."""
    words = json.loads((toy_folder / "tokenizer.json").read_text())

    def refused(match, changed):
        folder = Path(shutil.copytree(toy_folder, tmp_path / "folder", dirs_exist_ok=True))
        (folder / "tokenizer.json").write_text(json.dumps(words | changed))
        with pytest.raises(ValueError, match=match):
            text.cut(text.load_tokenizer(folder, 99), ["w1"], 9, ["w2"]).check(99, 2)

    far = words["model"] | {"vocab": words["model"]["vocab"] | {"w93": 500}}
    refused("the tokenizer in .* holds the token id 500, but the model's table has 99 rows", {"model": far})
    template = json.dumps(words["post_processor"])
    special, pair = template.replace('"ids": [2]', '"ids": [200]'), template.replace('"type_id": 1', '"type_id": 2')
    refused("the tokenised text holds the token id 200, but", {"post_processor": json.loads(special)})
    refused("the tokenised text holds the token type 2, but", {"post_processor": json.loads(pair)})
    with pytest.raises(ValueError, match="the tokenised text holds the token type 3, but"):
        text.Tokens([np.array([1])], [np.array([0])], pad=(0, 3)).check(99, 2)
    text.Tokens([np.array([1])], [np.array([0])], pad=(0, 3)).check(99, 0)  # of a model without types


def test_a_folder_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="no tokenizer in .*bert_tiny; one of tokenizer.json"):
        text.load_tokenizer(GOLDEN / "bert_tiny", 99)


def test_too_few_tokens_for_a_word_are_refused(toy_folder):
    with pytest.raises(ValueError, match="num_tokens is 2, but 2 of them are special; choose 3 or more"):
        text.tokenize(text.load_tokenizer(toy_folder, 99), ["w0"], 2)


def test_an_unknown_dataset_is_refused():
    with pytest.raises(ValueError, match="unknown dataset 'imdb'; known are newsgroups"):
        data.load("imdb", "test")


def test_contents_tell_data_sets_apart(tmp_path):
    texts, labels = ["a b", "c", "", "d"], np.array([0, 1, 1, 0])
    dataset = Labelled("d", {"text": texts, "pair": texts[::-1]}, labels, ("no", "yes"))
    expected = contents(dataset)
    assert expected["examples"] == 4
    assert json.loads(json.dumps(expected)) == expected
    table = datasets.Dataset.from_dict({"text": texts})
    stored = replace(dataset, inputs={**dataset.inputs, "pair": Selected(texts, np.array([3, 2, 1, 0]))})
    assert changes(expected, contents(stored)) == ""
    for other, printed in (
        (replace(dataset, inputs={**dataset.inputs, "text": ["a ", "bc", "", "d"]}), "different text"),
        (replace(dataset, inputs={"text": texts[::-1], "pair": texts}), "different text, pair"),
        (replace(dataset, labels=np.array([0, 1, 0, 1])), "different labels"),
        (replace(dataset, label_names=("yes", "no")), "different label_names"),
        (subset(dataset, 3), "3 examples, where there were 4"),
    ):
        assert changes(expected, contents(other)) == printed
    lazy = [
        Corpus("c", LazyItems(table.select(order), str, "c")) for order in ([0, 1, 2, 3], [0, 1, 2, 3], [1, 0, 2, 3])
    ]
    assert contents(lazy[0]) == contents(lazy[1]) != contents(lazy[2])
    cloze = Cloze("c", texts, [("a", "bc"), ("ab", "c")] * 2, labels)
    assert (
        changes(contents(cloze), contents(replace(cloze, endings=[("ab", "c"), ("a", "bc")] * 2)))
        == "different endings"
    )


def test_contents_of_images_are_the_bytes_that_are_stored(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("L", (2, 2), i).save(path)

    def expected(*paths, item=lambda stored: 1 / 0):  # what is stored is not decoded
        images = LazyItems(FileBytes(paths), item, "images")
        return contents(Labelled("d", {"image": images}, np.zeros(len(paths), int), ("a",)))

    before = expected(*paths[:2])
    assert changes(before, expected(*paths[:2])) == ""
    assert changes(before, expected(*paths[1::-1])) == changes(before, expected(*paths[1:])) == "different image"
    shutil.copy(paths[0], tmp_path / "moved.png")
    assert changes(before, expected(tmp_path / "moved.png", paths[1])) == ""
    own = [contents(Labelled("d", {"image": [Image.new(*how)]}, None, ())) for how in (("L", (1, 2)), ("L", (2, 1)))]
    assert changes(*own) == "different image"


def test_what_is_no_text_is_named(toy_folder):
    tokenizer = text.load_tokenizer(toy_folder, 99)
    for wrong, shown in ((None, "None"), (5, "5"), (["w1"], r"\['w1'\]")):
        for texts, pairs in ((["w0", wrong], None), (["w0", "w1"], ["w0", wrong])):
            with pytest.raises(InputError, match=f"example 1 of toy is {shown} in place of a text; leave it out"):
                text.cut(tokenizer, texts, 9, pairs, "toy")
    many = ["w0"] * text.CHUNK + [None]
    with pytest.raises(InputError, match=f"example {text.CHUNK} of the texts is None"):
        text.tokenize(tokenizer, many, 9)
    with pytest.raises(InputError, match="example 1 of the texts is None in place of a text"):
        likelihood.token_ids(tokenizer, ["w0", None])
    assert likelihood.token_ids(tokenizer, []) == []
    with pytest.raises(InputError, match="example 1 of the texts is 5 in place of a text"):
        likelihood.windows(text.load_tokenizer(TALES, 4096), ["a", 5], 8)


def test_a_text_without_tokens_is_named():
    tokenizer = text.load_tokenizer(TALES, 4096)  # it adds no special ones
    with pytest.raises(InputError, match="example 1 of toy is a text without tokens; leave it out"):
        text.cut(tokenizer, ["a", "", "b"], 8, data_name="toy")
    with pytest.raises(InputError, match="there is no text in toy; choose another data set or source"):
        likelihood.windows(tokenizer, ["", ""], 8, "toy")
    assert len(likelihood.windows(tokenizer, ["", "a", ""], 8)[1]) == 1
