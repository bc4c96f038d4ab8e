"""Ideas that extend a model: as the ones in docs/, and with the runs that are there."""

import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.command import command
from helpers.paths import ROOT
from helpers.tiny import stack_config, tiny_batch

import prism_jax as pj
from prism_jax.models.bert import BertConfig, BertForSequenceClassification
from prism_jax.models.class_tokens import BesideClassRow
from prism_jax.models.vit import ViTConfig, ViTForImageClassification

pytestmark = pytest.mark.usefixtures("quick_to_compile")

IDEAS = ROOT / "configs" / "ideas"


def logits_of(model, params, batch, exchange, on, compiled=jax.jit):
    parts = on.split(batch)
    return np.asarray(compiled(lambda p, parts: pj.forward(model, p, parts, exchange, on))(on.replicate(params), parts))


def check_class_tokens(plain, with_class_tokens, batch, runner):
    """With all rows sent every class row is that of one device, and so is their mean; with means it is not."""
    params, one_device = pj.init_params(plain, jax.random.key(0)), pj.on_one_device(1)
    expected = logits_of(plain, params, batch, pj.WholeSequence(), one_device)
    assert_close(logits_of(with_class_tokens, params, batch, pj.WholeSequence(), one_device), expected)
    for compiled in (jax.jit, lambda function: function):  # NumPy arrays come through where there is no jit
        assert_close(logits_of(with_class_tokens, params, batch, pj.AllGather(), runner(3), compiled), expected)
    assert np.abs(logits_of(with_class_tokens, params, batch, pj.SegmentMeans(1), runner(3)) - expected).max() > 1e-3


def test_class_tokens_on_every_part_of_a_vit(runner):
    idea = runpy.run_path(IDEAS / "cifar10_class_tokens.py")
    config = ViTConfig(stack_config(norm_first=True), image_size=(12, 16), patch_size=(4, 4), num_labels=5)
    patches = np.random.default_rng(0).normal(size=(2, config.num_tokens, config.patch_pixels)).astype(np.float32)
    check_class_tokens(ViTForImageClassification(config), idea["ClassTokens"](config), {"patches": patches}, runner)


def test_class_tokens_on_every_part_of_a_bert(runner):
    """Among the texts one that ends in the first part: the others' class rows don't count."""
    idea = runpy.run_path(IDEAS / "newsgroups_class_tokens.py")
    config = BertConfig(stack_config(), vocab_size=120, num_positions=64, num_labels=5)
    mask = np.arange(13)[None] < np.array([13, 9, 4])[:, None]
    ids = np.where(mask, np.random.default_rng(0).integers(1, 99, mask.shape), 0)
    ids[:, 0] = idea["CLS"]
    batch = {"ids": ids.astype(np.int32), "mask": mask}
    check_class_tokens(BertForSequenceClassification(config), idea["ClassTokens"](config), batch, runner)
    model = idea["ClassTokens"](config)
    params = pj.init_params(model, jax.random.key(0))
    alone = logits_of(model, params, batch, pj.IsolatedParts(), runner(3))
    exact = logits_of(model, params, batch, pj.WholeSequence(), pj.on_one_device(1))
    assert_close(alone[2], exact[2])
    assert np.abs(alone[:2] - exact[:2]).max(1).min() > 1e-3


def test_class_tokens_keep_what_an_exchange_asks_for():
    assert BesideClassRow(pj.exchange.MeansAfterNorm(1)).after_norm
    assert not BesideClassRow(pj.SegmentMeans(1)).after_norm


def test_a_learned_weight_on_log_count():
    """At 1, which it is at first, it changes nothing; at 0 log(count) is left out."""
    idea = runpy.run_path(IDEAS / "sst2_learned_weight.py")
    config = BertConfig(stack_config(), vocab_size=100, num_positions=64)
    plain, learned, batch = (
        BertForSequenceClassification(config),
        idea["LearnedWeight"](config),
        tiny_batch(12, padded=True),
    )
    params = pj.init_params(learned, jax.random.key(0))
    on_parts = pj.on_one_device(3)

    def logits(model, params, exchange):
        return pj.forward(model, params, on_parts.split(batch), exchange, on_parts)

    shared = {name: x for name, x in params.items() if name != "log_count"}
    assert_close(logits(learned, params, pj.SegmentMeans(1)), logits(plain, shared, pj.SegmentMeans(1)))
    unscaled = logits(plain, shared, pj.exchange.UnscaledMeans(1))
    assert_close(logits(learned, params | {"log_count": jnp.full(2, -0.01)}, pj.SegmentMeans(1)), unscaled)
    gradient = jax.grad(lambda params: logits(learned, params, pj.SegmentMeans(1)).sum())(params)
    assert (gradient["log_count"] != 0).all()


def test_a_class_that_extends_a_model_starts_from_its_runs(toy_config, trained, tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text(f"""
from dataclasses import replace

from prism_jax.experiments import recipe as configs
from prism_jax.models.bert import BertForSequenceClassification


class Upside(BertForSequenceClassification):
    def head(self, rows_BRD, real_BN, keys_B=None):
        return -super().head(rows_BRD, real_BN, keys_B)


config = replace(configs.load({toy_config!r}), model=Upside)
""")

    def score(config, checkpoint, out):
        flags = ["--checkpoint", checkpoint, "--out", tmp_path / out]
        assert command("eval.evaluate", config, *flags) == 0
        content = json.loads((tmp_path / out / "results.json").read_text())
        return content["model"], content["rows"][0]["score"]

    plain, upside = score(toy_config, trained, "plain"), score(own, trained, "upside")
    assert (plain[0].split(",")[0], upside[0].split(",")[0]) == ("BertForSequenceClassification", "Upside")
    assert plain[1] > 60 > 40 > upside[1]

    def swept():
        flags = ["--base", trained, "--parts", 2, "--segments", 2, "--exchanges", "--out", tmp_path / "sweep"]
        assert command("eval.sweep", own, *flags) == 0
        return [row["score"] for row in json.loads((tmp_path / "sweep" / "results.json").read_text())["rows"]]

    as_it_was, before = own.read_text(), swept()
    own.write_text(as_it_was.replace("return -super()", "return super()"))  # stored rows are of another model now
    assert max(before) < 40 < 60 < min(swept())
    own.write_text(as_it_was)
    flags = ["--start", trained, "--out", tmp_path / "run"]
    assert command("train.finetune", own, *flags) == 0
    assert score(own, tmp_path / "run", "tuned")[1] > upside[1]
    flags = ["--checkpoint", tmp_path / "run", "--out", tmp_path / "refused"]
    assert command("eval.evaluate", toy_config, *flags) == 2
    assert "was trained with another model" in capsys.readouterr().err
