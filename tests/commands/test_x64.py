"""With JAX's 64-bit types switched on, everything is as without them: parameters, answers, training, texts, scores."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.command import command
from helpers.tiny import prompts_of, stack_config, tiny_batch, tiny_gpt2

import prism_jax as pj
from prism_jax.experiments import checkpoint
from prism_jax.layers import lora
from prism_jax.models.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification
from prism_jax.models.gpt2 import GPT2Config, GPT2LMHeadModel
from prism_jax.models.vit import ViTConfig, ViTForImageClassification

pytestmark = pytest.mark.usefixtures("quick_to_compile")

TEXTS = tiny_batch(12, padded=True)
IMAGES = {"patches": np.random.default_rng(0).normal(size=(3, 13, 48)).astype(np.float32)}
BERT = BertConfig(stack_config(dropout=0.1), vocab_size=100, num_positions=64)
GPT2 = GPT2Config(stack_config(norm_first=True, causal=True, dropout=0.1), vocab_size=100, num_positions=64)
VIT = ViTConfig(stack_config(norm_first=True, dropout=0.1), image_size=(12, 16), patch_size=(4, 4))


@pytest.mark.parametrize(
    ("model", "batch", "exchange"),
    [
        (BertForSequenceClassification(BERT), TEXTS, pj.SegmentMeans(2, wire=pj.WIRES["int8"])),
        (BertForMaskedLM(BERT), TEXTS, pj.AllGather(wire=pj.WIRES["float16"])),
        (ViTForImageClassification(VIT), IMAGES, pj.SegmentMeans(2)),
        (GPT2LMHeadModel(GPT2), {name: TEXTS[name] for name in ("ids", "mask")}, pj.exchange.UnscaledMeans(2)),
    ],
    ids=["bert", "masked_lm", "vit", "gpt2"],
)
def test_no_float_has_64_bits(model, batch, exchange):
    """Neither parameters and adapters, nor an array on the way to the gradient, dropout and all."""
    on = pj.on_one_device(2)

    def gradient(key):
        params = lora.add(pj.init_params(model, key), lora.LoRA(2), key)
        parts = on.split(batch, key)
        return params, jax.grad(lambda params: (pj.forward(model, params, parts, exchange, on) ** 2).mean())(params)

    with jax.enable_x64(True):
        program, shapes = jax.make_jaxpr(gradient, return_shape=True)(jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    assert not re.search(r"f64\[\d", str(program))


@pytest.mark.slow
def test_texts_are_those_of_32_bits():
    def texts():
        model, params = tiny_gpt2()
        generator = pj.Generator(model, params, pj.SegmentMeans(2), pj.on_one_device(2))
        return [generator(prompts_of(5, 20), 6, sampling=one) for one in (pj.Sampling(), pj.Sampling(0.9, 20, 0.9))]

    expected = texts()
    with jax.enable_x64(True):
        assert texts() == expected


@pytest.mark.slow
def test_a_run_and_a_sweep_are_those_of_32_bits(toy_config, tmp_path):
    """Both runs are compiled alike, which `trained` may not be, and take small steps: AdamW makes a whole one of a
    gradient that is rounding alone."""
    out, expected, flags = tmp_path / "run", tmp_path / "expected", ["--parts", 2, "--segments", 1, "--limit", 20]
    train = ["train.finetune", toy_config, "--training.learning-rate", 0.002, "--out"]

    def scores(of_run, folder):
        assert command("eval.sweep", toy_config, "--base", of_run, *flags, "--out", folder) == 0
        return [row["score"] for row in json.loads((folder / "results.json").read_text())["rows"]]

    with jax.enable_x64(True):
        assert command(*train, out) == 0
        scored = scores(out, tmp_path / "x64")
    assert command(*train, expected) == 0
    jax.tree.map(assert_close, checkpoint.load(out).params, checkpoint.load(expected).params)
    assert scored == scores(expected, tmp_path / "x32")
