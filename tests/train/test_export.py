"""Models written in Hugging Face's layout, opened by transformers."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import hf_bert, hf_gpt2
from helpers.closeness import assert_close
from helpers.command import command
from helpers.hf_bert import run_ours, save_hf_model
from helpers.paths import GOLDEN
from safetensors import SafetensorError

import prism_jax as pj
from prism_jax import weights
from prism_jax.assets import hub
from prism_jax.data import text
from prism_jax.experiments import checkpoint
from prism_jax.layers import lora
from prism_jax.models import bert, gpt2
from prism_jax.testing import random_params
from prism_jax.weights import peft_files

pytestmark = pytest.mark.usefixtures("quick_to_compile")

BERT = {
    "BertModel": bert.BertModel,
    "BertForSequenceClassification": bert.BertForSequenceClassification,
    "BertForMaskedLM": bert.BertForMaskedLM,
    "BertForTokenClassification": bert.BertForTokenClassification,
}


def open_with_transformers(auto: str, folder):
    """The model, if every tensor fitted."""
    import transformers

    model, info = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@pytest.mark.parity
@pytest.mark.parametrize("name", BERT)
def test_bert_goes_out_as_it_came_in(name, tmp_path):
    config = hf_bert.hf_config("one_head", num_labels=3, id2label={0: "no", 1: "yes", 2: "maybe"})
    first = save_hf_model(name, config, tmp_path / "in")
    weights.export(weights.load(BERT[name], str(tmp_path / "in")), tmp_path / "out")
    again = open_with_transformers(
        name.replace("BertFor", "AutoModelFor").replace("BertModel", "AutoModel"), tmp_path / "out"
    )
    for key, value in first.config.to_dict().items():
        assert key == "_name_or_path" or again.config.to_dict()[key] == value, key
    batch = hf_bert.pair_batch("right")
    for ours, expected in zip(hf_bert.run_hf(again, batch), hf_bert.run_hf(first, batch), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["GPT2Model", "GPT2LMHeadModel"])
def test_gpt2_goes_out_as_it_came_in(name, tmp_path):
    first = save_hf_model(name, hf_gpt2.hf_config("one_head"), tmp_path / "in")
    weights.export(weights.load(getattr(gpt2, name), str(tmp_path / "in")), tmp_path / "out")
    again = open_with_transformers({"GPT2Model": "AutoModel"}.get(name, "AutoModelForCausalLM"), tmp_path / "out")
    assert again.config.activation_function == "relu"
    batch = hf_gpt2.token_batch("left")
    np.testing.assert_array_equal(hf_gpt2.run_hf(again, batch)[0], hf_gpt2.run_hf(first, batch)[0])


@pytest.mark.slow
@pytest.mark.parity
def test_a_model_made_here_goes_out(tmp_path):
    stack = replace(
        gpt2.GPT2.stack, num_layers=2, features=24, num_heads=2, mlp_features=40, init_scale=0.3, activation="silu"
    )
    model = gpt2.GPT2LMHeadModel(gpt2.GPT2Config(stack, vocab_size=99, num_positions=32))
    params = random_params(model)
    weights.export(weights.Pretrained(model, params), tmp_path)
    expected = open_with_transformers("AutoModelForCausalLM", tmp_path)
    batch = hf_gpt2.token_batch("right")
    run = pj.on_one_device(1)
    ours = pj.forward(model, params, run.split(batch), pj.WholeSequence(), run)
    assert_close(np.asarray(ours)[batch["mask"]], hf_gpt2.run_hf(expected, batch).logits.numpy()[batch["mask"]])


def test_parameters_without_a_name_there_are_not_dropped(tmp_path):
    model = gpt2.GPT2LMHeadModel(
        gpt2.GPT2Config(replace(gpt2.GPT2.stack, num_layers=1, features=24, num_heads=2), 99, 32)
    )
    params = random_params(model)
    own = params | {"log_count": np.zeros(1)}
    with pytest.raises(ValueError, match="no name for log_count, which would be lost"):
        weights.export(weights.Pretrained(model, own), tmp_path / "whole")
    adapted = lora.add(params, lora.LoRA(2), jax.random.key(0))
    with pytest.raises(ValueError, match="have adapters; fold them in with lora.merge"):
        weights.export(weights.Pretrained(model, adapted), tmp_path / "whole")
    with pytest.raises(ValueError, match="no name for log_count, which would be lost"):
        peft_files.save(tmp_path / "adapter", model, adapted | {"log_count": np.zeros(1)}, base="org/name")
    assert not any(tmp_path.iterdir())


@pytest.mark.parity
def test_what_the_source_says_of_its_precision_and_labels_does_not_go_out(tmp_path):
    """float16 would make transformers round what we wrote; an old number of labels would win over ours."""
    import shutil

    import torch

    shutil.copytree(GOLDEN / "bert_tiny", tmp_path / "in")
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    old = {
        "dtype": "float16",
        "torch_dtype": "float16",
        "num_labels": 5,
        "_num_labels": 5,
        "problem_type": "regression",
    }
    (tmp_path / "in" / "config.json").write_text(json.dumps(config | old))
    loaded = weights.load(bert.BertForSequenceClassification, str(tmp_path / "in"), num_labels=3, fresh=["classifier"])
    weights.export(loaded, tmp_path / "out", ("no", "yes", "maybe"))
    again = open_with_transformers("AutoModelForSequenceClassification", tmp_path / "out")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert again.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert again.config.problem_type is None


@pytest.mark.parity
def test_the_export_command(trained, toy_folder, tmp_path, capsys):
    from transformers import AutoTokenizer

    out = tmp_path / "exported"
    assert command("train.export", trained, out) == 0
    expected = open_with_transformers("AutoModelForSequenceClassification", out)
    assert expected.config.id2label == {0: "zero", 1: "one", 2: "two"}
    texts = ["w0 w1 w1 w5", "w2 w2 w9"]
    batch = text.tokenize(AutoTokenizer.from_pretrained(out), texts, 18)
    ours = run_ours(bert.BertForSequenceClassification, out, batch)
    assert_close(ours, hf_bert.run_hf(expected, batch).logits.numpy())
    # The head is the trained one, the encoder that of the source.

    best = checkpoint.load(trained)
    assert_close(expected.classifier.weight.detach().numpy().T, best.params["classifier"]["kernel"])

    capsys.readouterr()
    assert command("train.export", trained, out) == 2
    assert "is not empty; choose another folder" in capsys.readouterr().err
    assert command("train.export", tmp_path / "nothing", tmp_path / "other") == 2
    assert "no checkpoints in" in capsys.readouterr().err
    assert command("train.export", trained) == 2
    assert "--help lists the flags" in capsys.readouterr().err


def test_a_type_is_refused_for_a_whole_model(tmp_path, capsys):
    assert command("train.export", tmp_path / "run", tmp_path / "out", "--dtype", "float16") == 2
    assert capsys.readouterr().err == (
        "error: --dtype float16 is for an adapter, and a whole model is written in float32; add --adapter, "
        "or leave --dtype out\n"
    )


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_an_export_that_fails_leaves_nothing(error, trained, tmp_path, monkeypatch, capsys):
    """Such as on a full disk. The same command works once there is room."""

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise error

    out = tmp_path / "new" / "model"
    with monkeypatch.context() as patch:
        patch.setattr(hub, "save_file", full)
        assert command("train.export", trained, out) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert "new/model could not be written: " in printed
    assert "No space left on device" in printed
    assert not out.parent.exists()
    out.mkdir(parents=True)  # an empty folder will do
    assert command("train.export", trained, out) == 0
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    assert out.stat().st_mode & 0o777 == 0o755
