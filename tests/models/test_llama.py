"""Llama, Qwen2 and Qwen3 against Hugging Face's PyTorch models, and against golden files where torch is not
installed."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers.cases import one_is_quick
from helpers.closeness import assert_close
from helpers.hf_bert import WHOLE, run_ours, save_hf_model
from helpers.hf_gpt2 import NUM_TOKENS, run_hf, token_batch
from helpers.hf_llama import LLAMA3, SHAPES, hf_config
from helpers.paths import GOLDEN

import prism_jax as pj
from prism_jax import weights
from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.exchange import KeysValues
from prism_jax.models import llama, llama_hf
from prism_jax.models.registry import FAMILIES, class_named
from prism_jax.programs import block_outputs, params_shapes
from prism_jax.testing import random_params


def head_class(shape):
    return class_named(f"{SHAPES[shape][0]}ForCausalLM")


@pytest.mark.parity
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_hugging_face(shape, tmp_path):
    """On one device, and wherever all rows or all keys and values are sent."""
    hf_model = save_hf_model(head_class(shape).__name__, hf_config(shape), tmp_path)
    for padding in ("right", "left"):
        batch = token_batch(padding)
        reference = run_hf(hf_model, batch).logits.numpy()
        for exchange, num_parts in ((WHOLE, 1), (pj.AllGather(), 4), (KeysValues(pj.AllGather()), 3)):
            ours = run_ours(head_class(shape), tmp_path, batch, exchange, num_parts)
            assert_close(np.asarray(ours)[batch["mask"]], reference[batch["mask"]])


@pytest.mark.parity
@pytest.mark.parametrize("shape", one_is_quick("qwen3", SHAPES))
def test_every_layer_equals_hugging_face(shape, tmp_path):
    batch = token_batch("left")
    name = head_class(shape).__name__.replace("ForCausalLM", "Model")
    reference = run_hf(save_hf_model(name, hf_config(shape), tmp_path), batch, output_hidden_states=True)
    loaded, run = weights.load(class_named(name), str(tmp_path)), pj.on_one_device(1)

    @jax.jit
    def outputs(params, parts):
        how = loaded.model, params, parts, WHOLE, run
        return block_outputs(*how), pj.forward(*how)

    ours, last = outputs(loaded.params, run.split(batch))
    # Hugging Face gives the embeddings first, and the last block only after the last norm.
    for mine, hidden in zip([*ours[:-1], last], reference.hidden_states[1:], strict=True):
        assert_close(np.asarray(mine)[batch["mask"]], hidden.numpy()[batch["mask"]])


@pytest.mark.parity
@pytest.mark.parametrize("shape", ["one_kv_head", "qwen3"])
def test_gradients_equal_hugging_face(shape, runner, tmp_path):
    """Of every parameter, by Hugging Face's names; a tied and an untied head."""
    import optax
    import torch

    batch = token_batch("right")
    model = save_hf_model(head_class(shape).__name__, hf_config(shape), tmp_path)
    labels = torch.from_numpy(np.where(batch["mask"], batch["ids"], -100).astype(np.int64))
    mask = torch.from_numpy(batch["mask"].astype(np.int64))
    model(torch.from_numpy(batch["ids"].astype(np.int64)), attention_mask=mask, labels=labels).loss.backward()
    ours, run, scored = weights.load(head_class(shape), str(tmp_path)), runner(3), batch["mask"][:, 1:]

    def loss(params, parts):
        logits = pj.forward(ours.model, params, parts, pj.AllGather(), run)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], batch["ids"][:, 1:])
        return (losses * scored).sum() / scored.sum()

    gradient = jax.device_get(jax.jit(jax.grad(loss))(run.replicate(ours.params), run.split(batch)))
    table = weights.FAMILIES[model.config.model_type].hf.table(ours.model.config)
    named = weights.export_tensors(gradient, table)
    reference = {name.removeprefix("model."): p.grad.numpy() for name, p in model.named_parameters()}
    assert named.keys() == reference.keys()
    for name, value in reference.items():
        assert_close(named[name], value)


@pytest.mark.parity
@pytest.mark.parametrize("shape", SHAPES)
def test_an_export_opens_in_transformers_with_the_same_logits(shape, tmp_path):
    """From weights of ours. transformers finds the class by config.json alone."""
    from transformers import AutoModelForCausalLM

    save_hf_model(head_class(shape).__name__, hf_config(shape), tmp_path / "theirs")
    loaded = weights.load(head_class(shape), str(tmp_path / "theirs"))
    changed = jax.tree.map(lambda x: x * 1.25, loaded.params)
    weights.export(weights.Pretrained(loaded.model, changed), tmp_path / "ours")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(opened).__name__ == head_class(shape).__name__
    batch = token_batch("left")
    reference = run_hf(opened, batch).logits.numpy()
    run = pj.on_one_device(1)
    program = jax.jit(lambda params, parts: pj.forward(loaded.model, params, parts, WHOLE, run))
    ours = program(changed, run.split(batch))
    assert_close(np.asarray(ours)[batch["mask"]], reference[batch["mask"]])


def test_golden_outputs_without_torch():
    """Outputs of Hugging Face's PyTorch model, written by `python tests/golden/make.py`."""
    for case in json.loads((GOLDEN / "llama.json").read_text()):
        batch = {"ids": np.array(case["ids"], np.int32), "mask": np.array(case["mask"], bool)}
        logits = run_ours(llama.LlamaForCausalLM, GOLDEN / case["folder"], batch)
        assert_close(np.asarray(logits)[batch["mask"]], np.array(case["logits"], np.float32))


def test_parameter_count():
    """Of HuggingFaceTB/SmolLM2-135M-Instruct."""

    def count(num_layers):
        config = replace(llama.SMOLLM2_135M, stack=replace(llama.SMOLLM2_135M.stack, num_layers=num_layers))
        return sum(x.size for x in jax.tree.leaves(params_shapes(llama.LlamaForCausalLM(config))))

    assert count(1) + 29 * (count(2) - count(1)) == 134_515_008


@pytest.mark.parametrize("shape", SHAPES)
def test_a_config_is_read_and_written_back(shape, tmp_path):
    """The config that transformers reads from ours is theirs, but for what says nothing about the answer."""
    reference = hf_config(shape)
    family = FAMILIES[reference.model_type]
    (tmp_path / "config.json").write_text(json.dumps(reference.to_dict()))
    config = family.hf.config_from_hf(hub.read_config(tmp_path, FAMILIES))
    (tmp_path / "config.json").write_text(json.dumps(family.hf.config_to_hf(config)))
    again = hub.read_config(tmp_path, FAMILIES)
    # of those that are left out, all have the value that transformers gives by itself
    unequal = {name for name, value in reference.to_dict().items() if again.get(name) != value}
    assert unequal <= {"_name_or_path", "bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters"}
    assert family.hf.config_from_hf(again) == config
    assert {
        k: v for k, v in again["rope_parameters"].items() if k in reference.rope_parameters
    } == reference.rope_parameters


@pytest.mark.parametrize("rope", [None, LLAMA3, {"type": "linear", "factor": 4.0}, {"type": "default"}])
def test_the_older_form_of_rotary_positions_is_read(rope, tmp_path):
    """`rope_theta` and `rope_scaling`, as folders written by transformers 4 have them."""
    content = hf_config("grouped").to_dict()
    del content["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(content | {"rope_theta": 500.0, "rope_scaling": rope}))
    rotary = llama_hf.config_from_hf(hub.read_config(tmp_path, FAMILIES)).stack.rotary
    expected = {
        "llama3": llama.Rotary(500.0, "llama3", 4.0, 1.0, 4.0, 16),
        "linear": llama.Rotary(500.0, "linear", 4.0),
        "default": llama.Rotary(500.0),
    }
    assert rotary == expected[(rope or {}).get("rope_type") or (rope or {}).get("type", "default")]


@pytest.mark.parametrize(
    ("shape", "changed", "message"),
    [
        ("grouped", {"hidden_act": "mish"}, "hidden_act='mish'"),
        ("grouped", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'.*default, linear, llama3"),
        (
            "grouped",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ("grouped", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "lack factor"),
        ("grouped", {"num_key_value_heads": 3}, "4 heads of queries don't divide among 3"),
        ("grouped", {"num_key_value_heads": 0}, "4 heads of queries don't divide among 0"),
        ("grouped", {"is_causal": False}, "is_causal=False"),
        ("grouped", {"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "theta is 0; choose a number"),
        ("grouped", {"rope_parameters": {"rope_type": "default", "rope_theta": "100"}}, "theta is '100'"),
        ("grouped", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0.5}}, "factor is 0.5"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window=True.*sliding_window=8"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ],
)  # fmt: skip
def test_a_config_that_is_not_implemented_is_refused(shape, changed, message):
    content = hf_config(shape).to_dict() | changed
    with pytest.raises(ValueError, match=message):
        FAMILIES[content["model_type"]].hf.config_from_hf(content)


@pytest.mark.parametrize(
    ("shape", "changed", "lost"),
    [
        ("grouped", {"query_key_norm": True}, "llama has no other value of query_key_norm"),
        ("grouped", {"causal": False}, "causal"),
        ("grouped", {"qkv_bias": True}, "output_bias"),
        ("qwen2", {"head_features": 12}, "qwen2 has no other value of head_features"),
        ("qwen3", {"rotary": None}, "qwen3 has rotary positions, but rotary is None"),
    ],
)
def test_a_model_that_the_family_of_hugging_face_lacks_is_not_exported(shape, changed, lost, tmp_path):
    hf = FAMILIES[SHAPES[shape][0].lower()].hf
    config = hf.config_from_hf(hf_config(shape).to_dict())
    model = head_class(shape)(replace(config, stack=replace(config.stack, **changed)))
    with pytest.raises(InputError, match=lost):
        weights.export(weights.Pretrained(model, random_params(model)), tmp_path / "out")


@pytest.mark.parity
def test_frequencies_equal_hugging_face():
    """Of every type of scaling, at sizes where llama3 keeps, mixes and divides."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    def reference(**rope):
        config = hf_config("grouped", head_dim=64, rope_parameters=rope)
        kind = rope["rope_type"]
        if kind == "default":
            from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

            return LlamaRotaryEmbedding(config).inv_freq
        return ROPE_INIT_FUNCTIONS[kind](config, device="cpu")[0]

    cases = [
        {"rope_type": "default", "rope_theta": 5e5},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
        LLAMA3 | {"rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 8192},
    ]
    for rope in cases:
        ours = llama_hf.rotary_from_hf(rope).frequencies(64)
        assert_close(ours.astype(np.float32), reference(**rope).numpy())


@pytest.mark.parity
@pytest.mark.parametrize("num_parts", [3, 5])
def test_the_longest_sequence_in_parts_that_do_not_divide_it(num_parts, tmp_path):
    config = hf_config("grouped", max_position_embeddings=NUM_TOKENS)
    batch = {"ids": token_batch("right")["ids"][:1], "mask": np.ones((1, NUM_TOKENS), bool)}
    reference = run_hf(save_hf_model("LlamaForCausalLM", config, tmp_path), batch).logits.numpy()
    assert_close(run_ours(llama.LlamaForCausalLM, tmp_path, batch, pj.AllGather(), num_parts), reference)
