"""The classes of a checkpoint and of a data set by name."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.command import command
from safetensors.numpy import load_file, save_file

from prism_jax import weights
from prism_jax.data import labels
from prism_jax.experiments import checkpoint, recipe
from prism_jax.experiments.build import load_data, load_model, load_run
from prism_jax.layers import lora
from prism_jax.models.bert import BertForSequenceClassification
from prism_jax.weights import peft_files

pytestmark = pytest.mark.usefixtures("quick_to_compile")

GENERIC = {"0": "LABEL_0", "1": "LABEL_1"}


@pytest.mark.parametrize(
    ("reference", "ours", "places"),
    [
        ("a b c", "a b c", [0, 1, 2]),
        ("b c a", "a b c", [2, 0, 1]),
        ("POSITIVE Negative", "negative positive", [1, 0]),
        ("No no", "no No", [1, 0]),
        ("LABEL_0 LABEL_1", "no yes", [0, 1]),
        ("LABEL_1 LABEL_0", "LABEL_0 LABEL_1", [1, 0]),
        ("no yes", "0 1", [0, 1]),
        ("1 0", "0 1", [1, 0]),
    ],
)
def test_classes_are_found_by_name(reference, ours, places):
    assert labels.order(reference.split(), ours.split()) == places


@pytest.mark.parametrize(
    ("reference", "ours"),
    [("neg pos", "negative positive"), ("a b", "a b c"), ("b a a", "a b c"), ("LABEL_0 LABEL_1 LABEL_2", "no yes")],
)
def test_other_names_are_refused_with_both_orders(reference, ours):
    reference, ours = reference.split(), ours.split()
    message = f"classes are {', '.join(reference)}, and those of the data set {', '.join(ours)}"
    with pytest.raises(ValueError, match=re.escape(message)):
        labels.order(reference, ours)


@pytest.mark.parametrize(
    ("id2label", "label2id", "names"),
    [
        ({"1": "yes", "0": "no"}, None, ("no", "yes")),
        ({0: "no", 1: "yes"}, {"NO": 0, "YES": 1}, ("no", "yes")),
        ({0: "no", 1: "yes"}, {"LABEL_0": 0, "LABEL_1": 1}, ("no", "yes")),
        (GENERIC, {"no": 1, "yes": 0}, ("yes", "no")),
        (GENERIC, None, ("LABEL_0", "LABEL_1")),
        (None, None, ()),
    ],
)
def test_what_a_config_says(id2label, label2id, names):
    assert labels.names_in_config(id2label, label2id) == names


@pytest.mark.parametrize(
    ("id2label", "label2id", "message"),
    [
        (
            {"0": "a", "2": "b"},
            None,
            "id2label of the model's config.json numbers its classes 0, 2; number them from 0 to 1",
        ),
        ({"0": "a", "1": "b"}, {"b": 0, "a": 1}, "says a, b, and label2id b, a; correct one of them"),
        (["a", "b"], None, "id2label of the model's config.json is .'a', 'b'.; it must be an object"),
        (GENERIC, {"a": [0], "b": 1}, "label2id of the model's config.json numbers its classes"),
    ],
)
def test_what_a_config_can_not_say(id2label, label2id, message):
    with pytest.raises(ValueError, match=message):
        labels.names_in_config(id2label, label2id)


@pytest.fixture
def folder(toy_folder, tmp_path):
    """The toy model with a head for three classes."""
    to = Path(shutil.copytree(toy_folder, tmp_path / "model"))
    tensors = load_file(to / "model.safetensors")
    save_file(tensors | {name: tensors[name][:3] for name in HEAD}, to / "model.safetensors")
    rename(to, [0, 1, 2], "zero one two")
    return to


HEAD = ("classifier.weight", "classifier.bias")


def rename(folder: Path, order: list[int], names: str) -> None:
    """Brings the classes of a model into another order, under other names."""
    tensors = load_file(folder / "model.safetensors")
    turned = {name: np.ascontiguousarray(tensors[name][order]) for name in HEAD}
    save_file(tensors | turned, folder / "model.safetensors")
    content = json.loads((folder / "config.json").read_text())
    content |= {"id2label": dict(enumerate(names.split())), "label2id": None}
    (folder / "config.json").write_text(json.dumps(content))


def head(loaded) -> np.ndarray:
    return np.concatenate([loaded.params["classifier"]["kernel"], loaded.params["classifier"]["bias"][None]])


def test_a_head_is_brought_into_the_order_of_the_data_set(folder, toy_config, tmp_path):
    """So it is for a run that did not train it, and in an export."""
    experiment = replace(recipe.load(toy_config), weights=str(folder))
    dataset = load_data(experiment, "test")
    expected = head(load_model(experiment, dataset))
    rename(folder, [1, 2, 0], "one TWO zero")
    loaded = load_model(experiment, dataset)
    np.testing.assert_array_equal(head(loaded), expected)

    training = replace(experiment.training, fresh=())
    printed = recipe.to_json(replace(experiment, training=training))
    printed |= {"num_labels": 3, "label_names": ["zero", "one", "two"], "started_from": None}
    bias = {"pooler": {"bias": np.ones(32, np.float32)}}
    trained = load_run(checkpoint.Trained(tmp_path, printed, 1, bias), BertForSequenceClassification)
    np.testing.assert_array_equal(head(trained), expected)

    weights.export(loaded, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {
        "0": "zero",
        "1": "one",
        "2": "two",
    }
    np.testing.assert_array_equal(head(weights.load(BertForSequenceClassification, str(tmp_path / "out"))), expected)


def test_a_head_of_other_classes_is_refused_and_a_fresh_one_is_not(folder, toy_config, tmp_path, capsys):
    rename(folder, [0, 1, 2], "1st 2nd 3rd")
    assert command("eval.evaluate", toy_config, "--weights", folder, "--out", tmp_path) == 2
    *_, printed = capsys.readouterr().err.strip().splitlines()
    assert "the model's classes are 1st, 2nd, 3rd, and those of the data set zero, one, two" in printed
    experiment = replace(recipe.load(toy_config), weights=str(folder))
    fresh = load_model(experiment, load_data(experiment, "test"), fresh=("classifier",))
    assert fresh.label_names == ("zero", "one", "two")
    unnamed = weights.load(BertForSequenceClassification, str(folder), fresh=("classifier",))
    weights.export(unnamed, tmp_path / "out")  # not under the names of the head that was left
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]["0"] == "LABEL_0"


def test_an_adapter_notes_the_names_of_its_own_head(folder, tmp_path):
    """Those of its base's head say nothing of it."""
    base = weights.load(BertForSequenceClassification, str(folder))
    rename(folder, [0, 1, 2], "b c a")
    params, noted = lora.add(base.params, lora.LoRA(rank=2), jax.random.key(0)), tmp_path / "noted"
    for to, names in ((noted, ("x", "y", "z")), (tmp_path / "unnoted", ())):
        peft_files.save(to, base.model, params, base=str(folder), label_names=names)

    def load(adapter, *names):
        how = {"adapter": tmp_path / adapter, "label_names": names}
        return head(weights.load(BertForSequenceClassification, str(folder), **how))

    np.testing.assert_array_equal(load("noted", "z", "x", "y"), load("noted")[:, [2, 0, 1]])
    np.testing.assert_array_equal(load("unnoted", "z", "x", "y"), load("noted"))
    with pytest.raises(ValueError, match="the model's classes are x, y, z, and those of the data set a, b, c"):
        load("noted", "a", "b", "c")
    tensors = load_file(noted / peft_files.WEIGHTS)
    save_file(tensors, noted / peft_files.WEIGHTS, metadata={"label_names": '{"x": 0}'})
    with pytest.raises(ValueError, match="notes the label_names .*, no list of names"):
        load("noted")
