"""RoBERTa and others with BERT's blocks, against Hugging Face's PyTorch models, and against golden files where torch is
not installed."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers.cases import one_is_quick
from helpers.closeness import assert_close
from helpers.hf_bert import WHOLE, run_ours, save_hf_model
from helpers.hf_export import loaded_by_auto, reopened
from helpers.hf_texts import CLASS_ID, FAMILIES, HEADS, hf_config, run_hf, text_batch
from helpers.paths import GOLDEN
from helpers.tiny import stack_config

import prism_jax as pj
from prism_jax import models, weights
from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.layers import lora
from prism_jax.models.bert import BertConfig
from prism_jax.models.registry import FAMILIES as FAMILIES_OF_MODELS
from prism_jax.models.registry import class_named
from prism_jax.programs import block_outputs
from prism_jax.weights import peft_files

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_outputs_without_torch(family):
    """Outputs of Hugging Face's PyTorch model, written by `python tests/golden/make.py`. Their positions must be right
    in every part."""
    for case in json.loads((GOLDEN / f"{family}.json").read_text()):
        batch = {"ids": np.array(case["ids"], np.int32), "mask": np.array(case["mask"], bool)}
        folder = GOLDEN / f"{family}_tiny"
        logits = run_ours(models.auto(folder), folder, batch, pj.AllGather(), 3)
        assert_close(logits, np.array(case["logits"], np.float32))


@pytest.mark.parity
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_equals_hugging_face(family, head, tmp_path):
    """And is read back by transformers, from weights of ours, with the same answers."""
    name = FAMILIES[family][0] + head
    expected = save_hf_model(name, config := hf_config(family), tmp_path / "theirs")
    loaded = loaded_by_auto(name, tmp_path / "theirs")
    changed = jax.tree.map(lambda x: x * 1.25, loaded.params)
    opened = reopened(weights.Pretrained(loaded.model, changed), expected, tmp_path / "ours")
    run = pj.on_one_device(1)
    program = jax.jit(lambda params, parts: pj.forward(loaded.model, params, parts, WHOLE, run))
    for padding in ("right", "left"):
        batch = text_batch(config, padding)
        for model, params in ((expected, loaded.params), (opened, changed)):
            ours = program(params, run.split(batch))
            pairs = zip(jax.tree.leaves(ours), run_hf(model, batch).values(), strict=True)
            for mine, other in pairs:
                by_token = mine.shape[:2] == batch["mask"].shape
                rows = batch["mask"] if by_token else slice(None)
                assert_close(np.asarray(mine)[rows], other.numpy()[rows])


@pytest.mark.parity
@pytest.mark.parametrize("family", one_is_quick("roberta", FAMILIES))
def test_every_layer_equals_hugging_face(family, tmp_path):
    name = FAMILIES[family][0] + "Model"
    expected = save_hf_model(name, config := hf_config(family), tmp_path)
    batch = text_batch(config, "left")
    hidden = run_hf(expected, batch, output_hidden_states=True).hidden_states[1:]
    loaded, run = weights.load(class_named(name), str(tmp_path)), pj.on_one_device(1)
    ours = jax.jit(lambda params, parts: block_outputs(loaded.model, params, parts, WHOLE, run))(
        loaded.params, run.split(batch)
    )
    for mine, other in zip(ours, hidden, strict=True):
        assert_close(np.asarray(mine)[batch["mask"]], other.numpy()[batch["mask"]])


@pytest.mark.parity
@pytest.mark.parametrize("family", one_is_quick("roberta", FAMILIES))
def test_a_sentence_embedding_is_the_masked_mean(family, tmp_path):
    name = FAMILIES[family][0]
    expected = save_hf_model(f"{name}Model", config := hf_config(family), tmp_path)
    hidden = run_hf(expected, batch := text_batch(config, "right")).last_hidden_state.numpy()
    mask = batch["mask"][..., None]
    kind = class_named(f"{name}ForSentenceEmbedding")
    assert_close(run_ours(kind, tmp_path, batch, pj.AllGather(), 3), (hidden * mask).sum(1) / mask.sum(1))


@pytest.mark.parity("peft")
@pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|Could not find a config file)")
@pytest.mark.parametrize("family", one_is_quick("roberta", FAMILIES))
def test_adapters_are_exchanged_with_peft(family, tmp_path):
    """One that PEFT writes for the classifier, and one of ours that it opens."""
    import peft
    import torch
    from transformers import AutoModelForSequenceClassification

    def base():
        return AutoModelForSequenceClassification.from_pretrained(GOLDEN / f"{family}_tiny").eval()

    def ours(params, model):
        return pj.forward(model, params, run.split(batch), WHOLE, run)

    targets = {"roberta": ["query", "value"], "distilbert": ["q_lin", "lin2"]}[family]
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=targets, r=2)
    expected = peft.get_peft_model(base(), config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    expected.save_pretrained(tmp_path / "theirs")
    kind, run = models.auto(GOLDEN / f"{family}_tiny"), pj.on_one_device(1)
    loaded = weights.load(kind, str(GOLDEN / f"{family}_tiny"), adapter=tmp_path / "theirs")
    batch = text_batch(base().config, "right")
    assert_close(ours(loaded.params, loaded.model), run_hf(expected, batch).logits.numpy())

    plain = lora.add(weights.load(kind, str(GOLDEN / f"{family}_tiny")).params, lora.LoRA(3, 5), jax.random.key(0))
    rng = np.random.default_rng(0)
    trained = {
        path: np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32)
        for path, x in flatten_dict(plain).items()
        if lora.is_trained(path) or path[0] == "classifier"
    }
    params = unflatten_dict(flatten_dict(plain) | trained)
    peft_files.save(tmp_path / "ours", loaded.model, params, base="org/name")
    opened = peft.PeftModel.from_pretrained(base(), tmp_path / "ours").eval()
    assert_close(run_hf(opened, batch).logits.numpy(), ours(params, loaded.model))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_class_tokens_on_every_part_are_that_of_one_device(family):
    """With all rows sent; RoBERTa's for texts padded on either side."""
    case = json.loads((GOLDEN / f"{family}.json").read_text())[0]  # padded on the right
    batch = {"ids": np.array(case["ids"], np.int32), "mask": np.array(case["mask"], bool)}
    plain = weights.load(models.auto(GOLDEN / f"{family}_tiny"), str(GOLDEN / f"{family}_tiny"))
    model = class_named(f"{FAMILIES[family][0]}WithClassTokens")(replace(plain.model.config, class_id=CLASS_ID))
    run = pj.on_one_device(3)
    program = jax.jit(lambda params, parts: pj.forward(model, params, parts, pj.AllGather(), run))
    padded = [batch]
    if family == "roberta":  # the others count positions from the left, padding included
        lengths = batch["mask"].sum(1)
        padded.append({key: np.stack([*map(np.roll, x, -lengths)]) for key, x in batch.items()})
    for either in padded:
        assert_close(program(plain.params, run.split(either)), np.array(case["logits"], np.float32))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_of_two_layers_is_brought_into_the_order_of_classes(family, tmp_path):
    folder, names = shutil.copytree(GOLDEN / f"{family}_tiny", tmp_path / "model"), ("a", "b", "c", "d", "e")
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config))
    kind = models.auto(folder)
    loaded, turned = (weights.load(kind, str(folder), label_names=order) for order in (names, names[::-1]))
    assert (loaded.label_names, turned.label_names) == (names, names[::-1])
    before, after = (x.params["classifier"] for x in (loaded, turned))
    jax.tree.map(np.testing.assert_array_equal, before["dense"], after["dense"])
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[..., ::-1], y), before["out_proj"], after["out_proj"])
    drawn = weights.find(kind, str(folder), num_labels=3, fresh=("classifier",))
    assert not [path for path in drawn.tensors if path.startswith("classifier")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_is_read_and_written_back(family, tmp_path):
    """What transformers reads from ours is theirs, but for what says nothing about the answer."""
    expected = hf_config(family).to_dict()
    hf = FAMILIES_OF_MODELS[family].hf
    (tmp_path / "config.json").write_text(json.dumps(hf.config_to_hf(hf.config_from_hf(expected))))
    again = hub.read_config(tmp_path, FAMILIES_OF_MODELS)
    assert {name for name, value in expected.items() if again.get(name) != value} <= {
        "_name_or_path",
        "id2label",
        "label2id",
    }


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        (
            "roberta",
            {"is_decoder": True, "hidden_act": "mish", "position_embedding_type": "relative_key"},
            "this roberta config asks for .*(?=.*is_decoder=True)(?=.*'mish')(?=.*relative_key)",
        ),
        ("distilbert", {"activation": "mish", "n_head": 3}, "this distilbert .*(?=.*'mish')(?=.*n_head=3)"),
        ("roberta", {"pad_token_id": None}, "pad_token_id is None, but RoBERTa's positions begin after it"),
        ("roberta", {"pad_token_id": 39}, "pad_token_id is 39, .*begin after it, but max_position_embeddings is 40"),
        ("roberta", {"type_vocab_size": 0}, "type_vocab_size is 0, but every token of this family has a type; choose"),
    ],
)
def test_a_config_that_is_not_implemented_is_refused(family, changed, message):
    with pytest.raises(InputError, match=message):
        FAMILIES_OF_MODELS[family].hf.config_from_hf(hf_config(family).to_dict() | changed)


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        ("roberta", {"pad_id": None}, "positions begin after pad_id, but it is None"),
        ("distilbert", {"stack": {"norm_eps": 1e-5}}, "distilbert has no other value of num_types, pad_id, norm_eps"),
        ("bert", {"num_types": 0, "pad_id": None}, "type_vocab_size is 0, but every token of this family has a type"),
        ("bert", {"pad_id": 1}, "Hugging Face's bert has no other value of pad_id; choose another family"),
        ("roberta", {"stack": {"rms_norm": True}}, "Hugging Face's roberta has no other value of rms_norm"),
    ],
)
def test_a_config_that_hugging_face_lacks_is_not_written(family, changed, message):
    config = FAMILIES_OF_MODELS["roberta"].hf.config_from_hf(hf_config("roberta").to_dict())
    stack = replace(config.stack, **changed.pop("stack", {}))
    with pytest.raises(InputError, match=message):
        FAMILIES_OF_MODELS[family].hf.config_to_hf(replace(config, stack=stack, **changed))


def test_a_text_that_passes_the_position_table_is_refused():
    config = BertConfig(stack_config(), num_positions=20, pad_id=3)
    message = (
        "a sequence of 17 tokens, but the position table has 20 rows, of which tokens have those from 4 on; choose"
    )
    with pytest.raises(InputError, match=f"{message} num_tokens <= 16"):
        class_named("RobertaModel")(config).check(17)
    class_named("RobertaModel")(config).check(16)
