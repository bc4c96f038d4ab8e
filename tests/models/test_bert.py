"""BERT against Hugging Face's PyTorch BERT, and against golden files where torch is not installed."""

import json

import jax
import numpy as np
import pytest
from helpers.cases import one_is_quick
from helpers.closeness import assert_close
from helpers.hf_bert import NUM_TOKENS, SHAPES, WHOLE, hf_config, pair_batch, run_hf, run_ours, save_hf_model
from helpers.paths import GOLDEN

import prism_jax as pj
from prism_jax import weights
from prism_jax.layers.config import TransformerConfig
from prism_jax.models import bert, bert_hf
from prism_jax.programs import params_shapes


@pytest.mark.parity
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", ["right", "left"])
def test_hidden_states_and_pooler_equal_hugging_face(shape, padding, tmp_path):
    reference = run_hf(save_hf_model("BertModel", hf_config(shape), tmp_path), batch := pair_batch(padding))
    hidden, pooled = run_ours(bert.BertModel, tmp_path, batch)
    assert_close(np.asarray(hidden)[batch["mask"]], reference.last_hidden_state.numpy()[batch["mask"]])
    assert_close(pooled, reference.pooler_output.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("shape", one_is_quick("plain", SHAPES))
@pytest.mark.parametrize("padding", ["right", "left"])
def test_every_layer_equals_hugging_face(shape, padding, tmp_path):
    reference = run_hf(
        save_hf_model("BertModel", hf_config(shape), tmp_path), batch := pair_batch(padding), output_hidden_states=True
    )
    loaded = weights.load(bert.BertModel, str(tmp_path))
    parts = pj.split(batch, 1)

    @jax.jit
    def captured(params, parts):
        layout = pj.Layout(np.int32(0), parts.real_BN, None, num_parts=1, num_tokens=NUM_TOKENS)

        def named(module, _):
            return module.name == "norm" or str(module.name).startswith("block_")

        how = {"method": "part", "capture_intermediates": named}
        return loaded.model.apply({"params": params}, parts.tokens, layout, WHOLE, **how)[1]

    encoder = captured(loaded.params, parts)["intermediates"]["encoder"]
    blocks = [encoder["blocks"][f"block_{i}"]["__call__"][0] for i in range(loaded.model.config.stack.num_layers)]
    ours = [encoder["norm"]["__call__"][0], *(rows for rows, *_ in blocks)]
    assert len(ours) == len(reference.hidden_states)
    for mine, hidden in zip(ours, reference.hidden_states, strict=True):
        assert_close(np.asarray(mine)[batch["mask"]], hidden.numpy()[batch["mask"]])


@pytest.mark.parity
@pytest.mark.parametrize("padding", ["right", "left"])
def test_sequence_classification_equals_hugging_face(padding, tmp_path):
    reference = run_hf(
        save_hf_model("BertForSequenceClassification", hf_config("plain"), tmp_path), batch := pair_batch(padding)
    )
    assert_close(run_ours(bert.BertForSequenceClassification, tmp_path, batch), reference.logits.numpy())
    exact = run_ours(bert.BertForSequenceClassification, tmp_path, batch, pj.AllGather(), num_parts=4)
    assert_close(exact, reference.logits.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForTokenClassification"])
@pytest.mark.parametrize("shape", one_is_quick("plain", SHAPES))
def test_heads_on_every_token_equal_hugging_face(kind, shape, tmp_path):
    batch = pair_batch("right")
    reference = run_hf(save_hf_model(kind, hf_config(shape), tmp_path), batch).logits.numpy()
    for exchange, num_parts in ((WHOLE, 1), (pj.AllGather(), 3)):
        ours = np.asarray(run_ours(getattr(bert, kind), tmp_path, batch, exchange, num_parts))
        assert_close(ours[batch["mask"]], reference[batch["mask"]])


@pytest.mark.parity
def test_sentence_embedding_is_the_masked_mean(tmp_path):
    reference = run_hf(
        save_hf_model("BertModel", hf_config("plain"), tmp_path), batch := pair_batch("right")
    ).last_hidden_state.numpy()
    mask = batch["mask"][..., None]
    expected = (reference * mask).sum(1) / mask.sum(1)
    assert_close(run_ours(bert.BertForSentenceEmbedding, tmp_path, batch), expected)
    assert_close(run_ours(bert.BertForSentenceEmbedding, tmp_path, batch, pj.AllGather(), num_parts=3), expected)


def test_golden_outputs_without_torch():
    """Outputs of Hugging Face's PyTorch model, written by `python tests/golden/make.py`."""
    for case in json.loads((GOLDEN / "bert.json").read_text()):
        batch = {name: np.array(value) for name, value in case["batch"].items()}
        logits = run_ours(bert.BertForSequenceClassification, GOLDEN / case["folder"], batch)
        assert_close(logits, np.array(case["logits"], np.float32))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (bert.BERT_BASE, 109_482_240),
        (
            bert.BertConfig(TransformerConfig(24, 1024, 16, 4096, norm_first=False)),
            335_141_888,
        ),
        (
            bert.BertConfig(TransformerConfig(6, 384, 12, 1536, norm_first=False)),
            22_713_216,
        ),
    ],
    ids=["bert-base", "bert-large", "minilm"],
)
def test_parameter_counts(config, parameters):
    """The counts of Hugging Face's bert-base-uncased, bert-large-uncased and all-MiniLM-L6-v2, with their poolers."""
    assert sum(x.size for x in jax.tree.leaves(params_shapes(bert.BertModel(config)))) == parameters


def test_a_sequence_longer_than_the_position_table_is_refused():
    model = bert.BertModel(bert.BertConfig(bert.BERT_BASE.stack, num_positions=8))
    with pytest.raises(
        ValueError, match="a sequence of 9 tokens, but the position table has 8 rows; choose num_tokens <= 8"
    ):
        model.check(9)
    with pytest.raises(ValueError, match="choose num_tokens <= 8"):
        jax.eval_shape(
            lambda: pj.forward(
                model, {}, pj.split({"ids": np.zeros((1, 9), int)}, 1), pj.WholeSequence(), pj.on_one_device(1)
            )
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"position_embedding_type": "relative_key"},
            r"position_embedding_type='relative_key' \(implemented: 'absolute'\)",
        ),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"hidden_act": "mish"}, "hidden_act='mish'"),
        ({"rope_theta": 10000.0}, r"rope_theta=10000.0 \(an attribute that is not known\)"),
        (
            {"is_decoder": True, "hidden_act": "mish"},
            "is_decoder=True.*hidden_act='mish'|hidden_act='mish'.*is_decoder=True",
        ),
    ],
)
def test_a_config_that_is_not_implemented_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        bert_hf.config_from_hf(hf_config("plain").to_dict() | changed)
