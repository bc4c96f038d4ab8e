"""A class token on every part."""

import shutil

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.paths import GOLDEN
from helpers.tiny import save_toy_tokenizer, stack_config
from transformers import AutoTokenizer

import prism_jax as pj
from prism_jax import cost, weights
from prism_jax.errors import InputError
from prism_jax.exchange.text import parse
from prism_jax.models.bert import BertConfig, BertForSequenceClassification, BertModel, BertWithClassTokens
from prism_jax.models.class_tokens import _BesideClassRow
from prism_jax.models.vit import ViTConfig, ViTForImageClassification, ViTWithClassTokens
from prism_jax.testing import random_params

pytestmark = pytest.mark.usefixtures("quick_to_compile")

CLS = 101


def logits_of(model, params, batch, exchange, on):
    parts = on.split(batch)
    return np.asarray(jax.jit(lambda p, parts: pj.forward(model, p, parts, exchange, on))(on.replicate(params), parts))


def without(params, name):
    return {key: value for key, value in params.items() if key != name}


def applied(dense, x_BD):
    return x_BD @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])


def vit_config():
    return ViTConfig(stack_config(norm_first=True), image_size=(12, 16), patch_size=(4, 4), num_labels=5)


def bert_config():
    return BertConfig(stack_config(), vocab_size=120, num_positions=64, num_labels=5, class_id=CLS)


def texts(left):
    """Three texts of 13, 9 and 4 tokens, `[CLS]` first, padded to 13 on one side."""
    lengths = np.array([13, 9, 4])[:, None]
    order = np.arange(13)[None]
    mask = order >= 13 - lengths if left else order < lengths
    ids = np.where(mask, np.random.default_rng(0).integers(1, 99, mask.shape), 0)
    ids[np.arange(3), mask.argmax(1)] = CLS
    return {"ids": ids.astype(np.int32), "mask": mask}


def pictures():
    config = vit_config()
    pixels = np.random.default_rng(0).normal(size=(2, config.num_tokens, config.patch_pixels))
    return {"patches": pixels.astype(np.float32)}


def test_all_rows_sent_to_the_class_tokens_of_a_vit_are_one_device():
    """And with means they are not."""
    plain, model, batch = ViTForImageClassification(vit_config()), ViTWithClassTokens(vit_config()), pictures()
    params = random_params(plain)
    expected = logits_of(plain, params, batch, pj.WholeSequence(), pj.on_one_device(1))
    assert_close(logits_of(model, params, batch, pj.AllGather(), pj.on_mesh(3)), expected)
    means = logits_of(model, params, batch, pj.SegmentMeans(1), pj.on_mesh(3))
    assert np.abs(means - expected).max() > 1e-3


@pytest.mark.slow
def test_numpy_arrays_come_through_where_nothing_is_compiled():
    model, batch, run = ViTWithClassTokens(vit_config()), pictures(), pj.on_one_device(3)
    params, exchange = random_params(model), pj.SegmentMeans(1)
    ours = pj.forward(model, params, run.split(batch), exchange, run)
    assert_close(ours, logits_of(model, params, batch, exchange, run))


@pytest.mark.parametrize("left", [False, True])
def test_all_rows_sent_to_the_class_tokens_of_a_bert_are_one_device(left):
    """`[CLS]` is the first real token, wherever the padding stands: its hidden state is what the classifier reads."""
    plain, model, batch = BertModel(bert_config()), BertWithClassTokens(bert_config()), texts(left)
    params, one_device = random_params(model), pj.on_one_device(1)
    parts = one_device.split(batch)
    hidden_BND = pj.forward(plain, without(params, "classifier"), parts, pj.WholeSequence(), one_device)[0]
    pooled_BD = np.tanh(applied(params["pooler"], np.asarray(hidden_BND)[np.arange(3), batch["mask"].argmax(1)]))
    logits = logits_of(model, params, batch, pj.AllGather(), pj.on_mesh(3))
    assert_close(logits, applied(params["classifier"], pooled_BD))


def test_one_part_has_no_extra_row():
    plain, model, batch = BertForSequenceClassification(bert_config()), BertWithClassTokens(bert_config()), texts(False)
    params, one_device = random_params(plain), pj.on_one_device(1)
    expected = logits_of(plain, params, batch, pj.WholeSequence(), one_device)
    assert_close(logits_of(model, params, batch, pj.WholeSequence(), one_device), expected)


def test_the_class_rows_of_parts_without_a_real_token_do_not_count():
    """A text that ends in the first part is as on one device, whatever is sent."""
    model, batch = BertWithClassTokens(bert_config()), texts(left=False)
    params = random_params(model)
    alone = logits_of(model, params, batch, pj.IsolatedParts(), pj.on_mesh(3))
    exact = logits_of(model, params, batch, pj.WholeSequence(), pj.on_one_device(1))
    assert_close(alone[2], exact[2])
    assert np.abs(alone[:2] - exact[:2]).max(1).min() > 1e-3


@pytest.mark.parametrize(
    "exchange",
    [
        pj.SegmentMeans(2),
        pj.AllGather(),
        pj.IsolatedParts(),
        pytest.param(pj.exchange.Every(pj.SegmentMeans(2), 2), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_formula_counts_the_class_row(exchange):
    """FLOPs, bytes and collectives are those of the compiled program: one row more to compute, none more to send."""
    model, plain = ViTWithClassTokens(vit_config()), ViTForImageClassification(vit_config())
    compiled = cost.compiled_from_shapes(model, exchange, pj.on_mesh(3), 13)
    formula = cost.formula(model.config.stack, exchange, 3, 13, model.extra_rows)
    assert (compiled.flops, compiled.bytes_sent, compiled.collectives) == (
        formula.flops,
        formula.bytes_sent,
        formula.collectives,
    )
    without = cost.formula(plain.config.stack, exchange, 3, 13)
    assert formula.flops > without.flops
    assert formula.bytes_sent == without.bytes_sent
    assert cost.formula(model.config.stack, pj.WholeSequence(), 1, 13, 1) == cost.formula(
        plain.config.stack, pj.WholeSequence(), 1, 13
    )


def test_the_id_of_the_class_token_is_the_tokenizers(tmp_path):
    folder = shutil.copytree(GOLDEN / "bert_tiny", tmp_path / "bert")
    with pytest.raises(InputError, match="no tokenizer in"):
        weights.load(BertWithClassTokens, str(folder), fresh=("classifier",))
    save_toy_tokenizer(folder)
    loaded = weights.load(BertWithClassTokens, str(folder), fresh=("classifier",))
    assert loaded.model.config.class_id == AutoTokenizer.from_pretrained(folder).cls_token_id == 2
    with pytest.raises(InputError, match="needs the id of .CLS., but class_id is None"):
        BertWithClassTokens(BertConfig(stack_config(), vocab_size=120, num_positions=64)).check(12)


def test_class_tokens_keep_what_an_exchange_asks_for():
    assert _BesideClassRow(pj.exchange.MeansAfterNorm(1)).after_norm
    assert not _BesideClassRow(pj.SegmentMeans(1)).after_norm


def test_the_exchange_beside_a_class_row_has_no_text():
    """On its own it would leave the first row of every part unsent."""
    with pytest.raises(InputError, match="unknown exchange 'beside_class_row'"):
        parse("beside_class_row:all_gather")
