"""GPT-2 against Hugging Face's PyTorch GPT-2, and against golden files where torch is not installed."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers.cases import one_is_quick
from helpers.closeness import assert_close
from helpers.hf_bert import WHOLE, run_ours, save_hf_model
from helpers.hf_gpt2 import NUM_TOKENS, SHAPES, hf_config, run_hf, token_batch
from helpers.paths import GOLDEN

import prism_jax as pj
from prism_jax import weights
from prism_jax.assets import hub
from prism_jax.models import gpt2, gpt2_hf
from prism_jax.programs import params_shapes
from prism_jax.testing import random_params


@pytest.mark.parity
@pytest.mark.parametrize("shape", one_is_quick("plain", SHAPES))
@pytest.mark.parametrize("padding", ["right", "left"])
def test_logits_equal_hugging_face(shape, padding, tmp_path):
    batch = token_batch(padding)
    expected = run_hf(save_hf_model("GPT2LMHeadModel", hf_config(shape), tmp_path), batch).logits.numpy()
    for exchange, num_parts in ((WHOLE, 1), (pj.AllGather(), 4)):
        ours = run_ours(gpt2.GPT2LMHeadModel, tmp_path, batch, exchange, num_parts)
        assert_close(np.asarray(ours)[batch["mask"]], expected[batch["mask"]])


@pytest.mark.parity
@pytest.mark.parametrize("shape", one_is_quick("plain", SHAPES))
def test_every_layer_equals_hugging_face(shape, tmp_path):
    batch = token_batch("left")
    expected = run_hf(save_hf_model("GPT2Model", hf_config(shape), tmp_path), batch, output_hidden_states=True)
    loaded = weights.load(gpt2.GPT2Model, str(tmp_path))
    parts = pj.split(batch, 1)

    @jax.jit
    def last_and_captured(params, parts):
        layout = pj.Layout(np.int32(0), parts.real_BN, None, num_parts=1, num_tokens=NUM_TOKENS)

        def named(module, _):
            return str(module.name).startswith("block_")

        how = {"method": "part", "capture_intermediates": named}
        return loaded.model.apply({"params": params}, parts.tokens, layout, WHOLE, **how)

    last, captured = last_and_captured(loaded.params, parts)
    blocks = captured["intermediates"]["encoder"]["blocks"]
    ours = [blocks[f"block_{i}"]["__call__"][0][0] for i in range(loaded.model.config.stack.num_layers)]
    # Hugging Face gives the embeddings first, and the last block only after the last norm.
    for mine, hidden in zip([*ours[:-1], last], expected.hidden_states[1:], strict=True):
        assert_close(np.asarray(mine)[batch["mask"]], hidden.numpy()[batch["mask"]])


@pytest.mark.parity
@pytest.mark.parametrize("num_parts", one_is_quick(3, [1, 3]))
def test_gradients_equal_hugging_face(num_parts, runner, tmp_path):
    """Of every parameter, by Hugging Face's names; compiled."""
    import optax
    import torch

    batch = token_batch("right")
    model = save_hf_model("GPT2LMHeadModel", hf_config("plain"), tmp_path)
    labels = torch.from_numpy(np.where(batch["mask"], batch["ids"], -100).astype(np.int64))
    mask = torch.from_numpy(batch["mask"].astype(np.int64))
    model(torch.from_numpy(batch["ids"].astype(np.int64)), attention_mask=mask, labels=labels).loss.backward()
    ours, run = weights.load(gpt2.GPT2LMHeadModel, str(tmp_path)), runner(num_parts)
    scored = batch["mask"][:, 1:]

    def loss(params, parts):
        logits = pj.forward(ours.model, params, parts, pj.AllGather(), run)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], batch["ids"][:, 1:])
        return (losses * scored).sum() / scored.sum()

    gradient = jax.device_get(jax.jit(jax.grad(loss))(run.replicate(ours.params), run.split(batch)))
    named = weights.export_tensors(gradient, gpt2_hf.table(ours.model.config))
    expected = {name: p.grad.numpy() for name, p in model.transformer.named_parameters()}
    assert named.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(named[name], value)


def test_golden_outputs_without_torch():
    """Outputs of Hugging Face's PyTorch model, written by `python tests/golden/make.py`."""
    for case in json.loads((GOLDEN / "gpt2.json").read_text()):
        batch = {"ids": np.array(case["ids"], np.int32), "mask": np.array(case["mask"], bool)}
        logits = run_ours(gpt2.GPT2LMHeadModel, GOLDEN / case["folder"], batch)
        assert_close(np.asarray(logits)[batch["mask"]], np.array(case["logits"], np.float32))


@pytest.mark.slow
def test_the_causal_mask_is_aware_of_parts():
    """By gradient: a position sees no later one, under any exchange;
    and sees every earlier one where means are sent."""
    config = gpt2.GPT2Config(
        replace(gpt2.GPT2.stack, num_layers=2, features=32, num_heads=4, mlp_features=64, init_scale=0.3)
    )
    model = gpt2.GPT2Model(replace(config, vocab_size=50, num_positions=12))
    params = random_params(model)
    run, table = pj.on_one_device(3), params["encoder"]["token"]["embedding"]

    def influence(exchange):
        """[N, N]: how much each position depends on the token of each other position, all tokens being different."""
        parts = run.split({"ids": np.arange(12, dtype=np.int32)[None]})

        def rows(table):
            with_table = params | {"encoder": params["encoder"] | {"token": {"embedding": table}}}
            # Not the sum of the features: a norm before the sum would hide the derivative.
            return pj.forward(model, with_table, parts, exchange, run)[0] @ np.linspace(-1, 1, 32, dtype=np.float32)

        return np.abs(np.asarray(jax.jit(jax.jacfwd(rows))(table))).sum(-1)[:, :12]

    drawn = np.tril(np.ones((12, 12), bool))
    assert ((influence(pj.SegmentMeans(2)) > 1e-6) == drawn).all()
    assert ((influence(pj.AllGather()) > 1e-6) == drawn).all()
    own = np.kron(np.eye(3, dtype=bool), np.ones((4, 4), bool))
    assert ((influence(pj.IsolatedParts()) > 1e-6) == (drawn & own)).all()


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (gpt2.GPT2, 124_439_808),
        (gpt2.GPT2_MEDIUM, 354_823_168),
        (gpt2.GPT2_LARGE, 774_030_080),
        (gpt2.GPT2_XL, 1_557_611_200),
    ],
    ids=["gpt2", "medium", "large", "xl"],
)
def test_parameter_counts(config, parameters):
    """The counts of Hugging Face's gpt2, gpt2-medium, gpt2-large and gpt2-xl."""
    assert sum(x.size for x in jax.tree.leaves(params_shapes(gpt2.GPT2LMHeadModel(config)))) == parameters


def test_configs_of_the_real_gpt2_are_understood(tmp_path):
    """With the old attributes that `openai-community/gpt2` and `gpt2-medium` have, read from a file."""
    from transformers import GPT2Config

    old = {"n_ctx": 1024, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}
    old |= {"n_special": 0, "predict_special_tokens": True, "torchscript": False, "_num_labels": 1}
    (tmp_path / "config.json").write_text(json.dumps(GPT2Config().to_dict() | old))
    assert gpt2_hf.config_from_hf(hub.read_config(tmp_path, weights.FAMILIES)) == gpt2.GPT2


@pytest.mark.parity
@pytest.mark.parametrize("num_parts", [3, 5])
def test_the_longest_sequence_in_parts_that_do_not_divide_it(num_parts, tmp_path):
    """The padding behind it has no position of its own."""
    config = hf_config("plain", n_positions=17)
    batch = {"ids": token_batch("right")["ids"][:1], "mask": np.ones((1, NUM_TOKENS), bool)}
    expected = run_hf(save_hf_model("GPT2LMHeadModel", config, tmp_path), batch).logits.numpy()
    assert_close(run_ours(gpt2.GPT2LMHeadModel, tmp_path, batch, pj.AllGather(), num_parts), expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx=True \(implemented: False\)"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn=True"),
        ({"scale_attn_weights": False}, "scale_attn_weights=False"),
        (
            {"add_cross_attention": True, "tie_word_embeddings": False},
            "add_cross_attention=True.*tie_word_embeddings=False|tie_word_embeddings=False.*add_cross_attention=True",
        ),
        ({"activation_function": "mish"}, "activation_function='mish'"),
    ],
)  # fmt: skip
def test_a_config_that_is_not_implemented_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        gpt2_hf.config_from_hf(hf_config("plain").to_dict() | changed)


@pytest.mark.parity
@pytest.mark.parametrize("saved", ["GPT2Model", "GPT2LMHeadModel"])
def test_base_and_head_models_and_old_buffers_are_read(saved, tmp_path):
    from safetensors.numpy import load_file, save_file

    model = save_hf_model(saved, hf_config("plain"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    prefix = "transformer." if saved == "GPT2LMHeadModel" else ""
    old = {
        f"{prefix}h.0.attn.bias": np.tril(np.ones((1, 1, 128, 128), np.float32)),
        f"{prefix}h.0.attn.masked_bias": np.array(-1e4, np.float32),
        "lm_head.weight": tensors[f"{prefix}wte.weight"],
    }
    save_file(tensors | old, tmp_path / "model.safetensors")
    batch = token_batch("right")
    if saved == "GPT2Model":
        hidden = run_ours(gpt2.GPT2Model, tmp_path, batch)
        assert_close(np.asarray(hidden)[batch["mask"]], run_hf(model, batch)[0].numpy()[batch["mask"]])
    loaded = weights.load(gpt2.GPT2LMHeadModel, str(tmp_path))
    assert loaded.params["encoder"]["blocks"]["block_0"]["attention"]["key"]["kernel"].shape == (32, 32)
