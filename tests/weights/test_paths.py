"""Folders and files of the public functions: as strings and as paths alike."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.paths import GOLDEN
from helpers.tiny import save_toy_tokenizer

from prism_jax import data, models, weights
from prism_jax.data import images, text
from prism_jax.experiments import recipe
from prism_jax.layers import lora
from prism_jax.models.bert import BertForSequenceClassification
from prism_jax.weights import peft_files

as_str_or_path = pytest.mark.parametrize("kind", [str, Path])


@as_str_or_path
def test_weights_come_in_and_go_out(kind, tmp_path):
    source, out = kind(GOLDEN / "bert_tiny"), kind(tmp_path / "out")
    assert models.auto(source) is BertForSequenceClassification
    assert weights.find(BertForSequenceClassification, source).pretrained.folder == GOLDEN / "bert_tiny"
    loaded = weights.load(BertForSequenceClassification, source)
    weights.export(loaded, out)
    jax.tree.map(np.testing.assert_array_equal, weights.load(BertForSequenceClassification, out).params, loaded.params)


@as_str_or_path
def test_an_adapter_goes_out_and_comes_in(kind, tmp_path):
    loaded = weights.load(BertForSequenceClassification, str(GOLDEN / "bert_tiny"))
    out = kind(tmp_path / "out")
    peft_files.save(out, loaded.model, lora.add(loaded.params, lora.LoRA(2), jax.random.key(0)), base="org/name")
    assert peft_files.num_labels(out) == loaded.model.config.num_labels
    assert peft_files.read(out, loaded.model)
    assert lora.has_adapters(peft_files.load(out, loaded.model, loaded.params))
    assert weights.load(BertForSequenceClassification, GOLDEN / "bert_tiny", adapter=out).params


@as_str_or_path
def test_tokenizer_processor_data_and_recipe(kind, toy_config, tmp_path):
    save_toy_tokenizer(tmp_path)
    assert text.load_tokenizer(kind(tmp_path), 99)
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 21}}
    (tmp_path / images.SETTINGS).write_text(json.dumps(settings))
    assert images.size_of(images.load_processor(kind(tmp_path))) == (12, 21)
    (tmp_path / "test.txt").write_text("a text")
    assert data.load("text", "test", kind(tmp_path)).documents == ["a text"]
    assert recipe.load(kind(toy_config)) == recipe.load(toy_config)
