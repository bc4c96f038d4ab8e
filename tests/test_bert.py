"""BERT against Hugging Face's PyTorch BERT, and against golden files where torch is not installed."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import GOLDEN, assert_close

import prism_jax as pj
from prism_jax import weights
from prism_jax.forward import params_shapes
from prism_jax.layers import transformer
from prism_jax.models import bert

SHAPES = {
    "plain": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "hidden_act": "gelu",
    },
    "one_head": {
        "hidden_size": 24,
        "num_attention_heads": 1,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "hidden_act": "gelu_new",
    },
    "wide_heads": {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "hidden_act": "relu",
    },
}
NUM_TOKENS = 17
WHOLE = pj.WholeSequence()


def hf_config(shape: str, **kwargs):
    from transformers import BertConfig

    small = {"vocab_size": 99, "max_position_embeddings": 40, "initializer_range": 0.3, "num_labels": 5}
    return BertConfig(**small | SHAPES[shape] | kwargs)


def pair_batch(padding: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Pairs of sentences of several lengths, padded left or right."""
    rng = np.random.default_rng(seed)
    lengths = np.array([NUM_TOKENS, 11, 4, 1])
    place = np.arange(NUM_TOKENS)[None]
    mask = place < lengths[:, None] if padding == "right" else place >= NUM_TOKENS - lengths[:, None]
    ids = np.where(mask, rng.integers(1, 99, mask.shape), 0).astype(np.int32)
    types = np.where(mask, place > NUM_TOKENS // 2, 0).astype(np.int32)
    return {"ids": ids, "types": types, "mask": mask}


def save_hf_model(kind: str, config, folder: Path):
    """A Hugging Face model with random weights, norms and biases too, as a folder in the hub's layout."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def run_hf(model, batch: dict, **kwargs):
    import torch

    inputs = {
        "input_ids": batch["ids"],
        "token_type_ids": batch["types"],
        "attention_mask": batch["mask"].astype(np.int64),
    }
    with torch.no_grad():
        return model(**{name: torch.from_numpy(value.astype(np.int64)) for name, value in inputs.items()}, **kwargs)


def run_ours(kind, folder: Path, batch: dict, exchange: pj.Exchange = WHOLE, num_parts: int = 1):
    loaded = weights.load(kind, str(folder))
    run = pj.on_one_device(num_parts)
    return jax.jit(lambda params, parts: pj.forward(loaded.model, params, parts, exchange, run))(
        loaded.params, run.split(batch)
    )


@pytest.mark.parity
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", ["right", "left"])
def test_hidden_states_and_pooler_equal_hugging_face(shape, padding, tmp_path):
    theirs = run_hf(save_hf_model("BertModel", hf_config(shape), tmp_path), batch := pair_batch(padding))
    hidden, pooled = run_ours(bert.BertModel, tmp_path, batch)
    assert_close(np.asarray(hidden)[batch["mask"]], theirs.last_hidden_state.numpy()[batch["mask"]])
    assert_close(pooled, theirs.pooler_output.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", ["right", "left"])
def test_every_layer_equals_hugging_face(shape, padding, tmp_path):
    theirs = run_hf(
        save_hf_model("BertModel", hf_config(shape), tmp_path), batch := pair_batch(padding), output_hidden_states=True
    )
    loaded = weights.load(bert.BertModel, str(tmp_path))
    parts = pj.split(batch, 1)
    layout = pj.Layout(np.int32(0), parts.real_BN, None, num_parts=1, num_tokens=NUM_TOKENS)
    _, captured = loaded.model.apply(
        {"params": loaded.params},
        parts.tokens,
        layout,
        pj.WholeSequence(),
        method="part",
        capture_intermediates=lambda module, _: module.name == "norm" or str(module.name).startswith("block_"),
    )
    encoder = captured["intermediates"]["encoder"]
    blocks = [encoder["blocks"][f"block_{i}"]["__call__"][0] for i in range(loaded.model.config.stack.num_layers)]
    ours = [encoder["norm"]["__call__"][0], *(rows for rows, _ in blocks)]
    assert len(ours) == len(theirs.hidden_states)
    for mine, hidden in zip(ours, theirs.hidden_states, strict=True):
        assert_close(np.asarray(mine)[batch["mask"]], hidden.numpy()[batch["mask"]])


@pytest.mark.parity
@pytest.mark.parametrize("padding", ["right", "left"])
def test_sequence_classification_equals_hugging_face(padding, tmp_path):
    theirs = run_hf(
        save_hf_model("BertForSequenceClassification", hf_config("plain"), tmp_path), batch := pair_batch(padding)
    )
    assert_close(run_ours(bert.BertForSequenceClassification, tmp_path, batch), theirs.logits.numpy())
    exact = run_ours(bert.BertForSequenceClassification, tmp_path, batch, pj.AllGather(), num_parts=4)
    assert_close(exact, theirs.logits.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForTokenClassification"])
@pytest.mark.parametrize("shape", SHAPES)
def test_heads_on_every_token_equal_hugging_face(kind, shape, tmp_path):
    batch = pair_batch("right")
    theirs = run_hf(save_hf_model(kind, hf_config(shape), tmp_path), batch).logits.numpy()
    for exchange, num_parts in ((WHOLE, 1), (pj.AllGather(), 3)):
        ours = np.asarray(run_ours(getattr(bert, kind), tmp_path, batch, exchange, num_parts))
        assert_close(ours[batch["mask"]], theirs[batch["mask"]])


@pytest.mark.parity
def test_sentence_embedding_is_the_masked_mean(tmp_path):
    theirs = run_hf(
        save_hf_model("BertModel", hf_config("plain"), tmp_path), batch := pair_batch("right")
    ).last_hidden_state.numpy()
    mask = batch["mask"][..., None]
    expected = (theirs * mask).sum(1) / mask.sum(1)
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
            bert.BertConfig(transformer.TransformerConfig(24, 1024, 16, 4096, norm_first=False)),
            335_141_888,
        ),
        (
            bert.BertConfig(transformer.TransformerConfig(6, 384, 12, 1536, norm_first=False)),
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
        bert.config_from_hf(hf_config("plain").to_dict() | changed)
