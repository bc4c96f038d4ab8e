"""DeiT and others with ViT's blocks, against Hugging Face's PyTorch models, and against golden files where torch is not
installed."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers.cases import one_is_quick
from helpers.closeness import assert_close
from helpers.hf_bert import WHOLE, save_hf_model
from helpers.hf_export import loaded_by_auto, reopened
from helpers.hf_images import FAMILIES, hf_config
from helpers.hf_vit import answer, random_pixels, run_hf
from helpers.paths import GOLDEN

import prism_jax as pj
from prism_jax import models, weights
from prism_jax.assets import hub
from prism_jax.data import images
from prism_jax.errors import InputError
from prism_jax.layers import lora
from prism_jax.models import dinov2, vit
from prism_jax.models.registry import FAMILIES as FAMILIES_OF_MODELS
from prism_jax.models.registry import class_named
from prism_jax.programs import block_outputs, params_shapes
from prism_jax.testing import random_params
from prism_jax.weights import peft_files

pytestmark = pytest.mark.usefixtures("quick_to_compile")

HEADS = [
    ("deit", "Model"),
    ("deit", "ForImageClassification"),
    ("deit", "ForImageClassificationWithTeacher"),
    ("dinov2", "Model"),
    ("dinov2", "ForImageClassification"),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_outputs_without_torch(family):
    """Outputs of Hugging Face's PyTorch model, written by `python tests/golden/make.py`, in three parts."""
    case, folder = json.loads((GOLDEN / f"{family}.json").read_text()), GOLDEN / f"{family}_tiny"
    loaded = weights.load(models.auto(folder), str(folder))
    pixels = np.array(case["pixels"], np.float32)
    logits = answer(loaded.model, loaded.params, pixels, pj.AllGather(), pj.on_one_device(3))
    assert_close(logits, np.array(case["logits"], np.float32))


@pytest.mark.parity
@pytest.mark.parametrize(("family", "head"), HEADS)
def test_every_head_equals_hugging_face(family, head, tmp_path):
    """And is read back by transformers, from weights of ours, with the same answers."""
    name = FAMILIES[family][0] + head
    reference = save_hf_model(name, config := hf_config(family), tmp_path / "theirs")
    loaded = loaded_by_auto(name, tmp_path / "theirs")
    changed = jax.tree.map(lambda x: x * 1.25, loaded.params)
    opened = reopened(weights.Pretrained(loaded.model, changed), reference, tmp_path / "ours")
    pixels = random_pixels(config)
    for model, params in ((reference, loaded.params), (opened, changed)):
        ours = jax.tree.leaves(answer(loaded.model, params, pixels))
        for mine, other in zip(ours, run_hf(model, pixels).values(), strict=False):
            assert_close(mine, other.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("family", one_is_quick("dinov2", FAMILIES))
def test_every_layer_equals_hugging_face(family, tmp_path):
    name = FAMILIES[family][0] + "Model"
    reference = save_hf_model(name, config := hf_config(family), tmp_path)
    pixels = random_pixels(config)
    hidden = run_hf(reference, pixels, output_hidden_states=True).hidden_states[1:]
    loaded, run = weights.load(class_named(name), str(tmp_path)), pj.on_one_device(1)
    batch = {"patches": images.patchify(pixels, loaded.model.config)}
    ours = jax.jit(lambda params, parts: block_outputs(loaded.model, params, parts, WHOLE, run))(
        loaded.params, run.split(batch)
    )
    for mine, other in zip(ours, hidden, strict=True):
        assert_close(mine, other.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("family", FAMILIES)
def test_another_resolution_equals_hugging_face(family, tmp_path):
    name = FAMILIES[family][0]
    reference = save_hf_model(f"{name}Model", hf_config(family), tmp_path)
    pixels = np.random.default_rng(1).normal(size=(2, 1, 13, 24)).astype(np.float32)
    given = {"interpolate_pos_encoding": True} if family == "deit" else {}
    expected = run_hf(reference, pixels, **given).last_hidden_state.numpy()
    loaded = weights.load(class_named(f"{name}Model"), str(tmp_path))
    model, params = vit.with_image_size(loaded.model, loaded.params, (13, 24))
    assert_close(answer(model, params, pixels)[0], expected)


@pytest.mark.slow
@pytest.mark.parity("peft")
@pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|Could not find a config file)")
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_opens_an_adapter_of_ours(family, tmp_path):
    """With a classifier of its own, for other classes than those of the weights. And so do we."""
    import peft
    import transformers

    name, _, head = FAMILIES[family]
    kind, folder = models.auto(GOLDEN / f"{family}_tiny"), str(GOLDEN / f"{family}_tiny")
    loaded = weights.load(kind, folder, num_labels=3, fresh=kind.label_layers)
    params = lora.add(loaded.params, lora.LoRA(3, 5), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = unflatten_dict(
        {
            path: np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32) if lora.is_trained(path) else x
            for path, x in flatten_dict(params).items()
        }
    )
    peft_files.save(tmp_path, loaded.model, params, base="org/name", whole=kind.label_layers)
    base = getattr(transformers, name + head).from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    reference = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    pixels = random_pixels(base.config)
    assert_close(answer(loaded.model, params, pixels), run_hf(reference, pixels).logits.numpy())
    again = weights.load(kind, folder, adapter=tmp_path)
    assert_close(answer(again.model, again.params, pixels), run_hf(reference, pixels).logits.numpy())


@pytest.mark.parametrize("family", one_is_quick("dinov2", FAMILIES))
def test_class_tokens_on_every_part_are_that_of_one_device(family):
    """With all rows sent."""
    case, folder = json.loads((GOLDEN / f"{family}.json").read_text()), GOLDEN / f"{family}_tiny"
    loaded, pixels = weights.load(models.auto(folder), str(folder)), np.array(case["pixels"], np.float32)
    params, logits = loaded.params, np.array(case["logits"], np.float32)
    if family == "deit":  # whose golden file is of another head
        plain = class_named("DeiTForImageClassification")(loaded.model.config)
        params = random_params(plain)
        logits = answer(plain, params, pixels)
    model = class_named(f"{FAMILIES[family][0]}WithClassTokens")(loaded.model.config)
    assert_close(answer(model, params, pixels, pj.AllGather(), pj.on_one_device(3)), logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_is_read_and_written_back(family, tmp_path):
    """What transformers reads from ours is theirs, but for what says nothing about the answer."""
    reference = hf_config(family, image_size=[12, 16] if family == "deit" else 16).to_dict()
    hf = FAMILIES_OF_MODELS[family].hf
    (tmp_path / "config.json").write_text(json.dumps(hf.config_to_hf(hf.config_from_hf(reference))))
    again = hub.read_config(tmp_path, FAMILIES_OF_MODELS)
    unequal = {name for name, value in reference.items() if again.get(name) != value}
    assert unequal <= {"_name_or_path", "id2label", "label2id", "layerscale_value", "use_mask_token"}


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        ("deit", {"hidden_act": "mish", "rope_theta": 1.0}, "this deit .*(?=.*'mish')(?=.*rope_theta=1.0)"),
        (
            "dinov2",
            {"use_swiglu_ffn": True, "drop_path_rate": 0.1, "hidden_dropout_prob": 0.1},
            "this dinov2 .*(?=.*use_swiglu_ffn=True)(?=.*drop_path_rate=0.1)(?=.*hidden_dropout_prob=0.1)",
        ),
        (
            "dinov2",
            {"image_size": [8, 32]},
            "a square of patches, but image_size gives 2 x 8; give the size of a square",
        ),
    ],
)
def test_a_config_that_is_not_implemented_is_refused(family, changed, message):
    with pytest.raises(InputError, match=message):
        FAMILIES_OF_MODELS[family].hf.config_from_hf(hf_config(family).to_dict() | changed)


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        ("vit", {"distilled": True}, "Hugging Face's vit has no other value of distilled; choose another family"),
        ("deit", {"distilled": False}, "Hugging Face's deit has no other value of distilled"),
        ("dinov2", {}, "Hugging Face's dinov2 has no other value of layer_scale"),
        ("vit", {"stack": dinov2.DINOV2_SMALL.stack}, "Hugging Face's vit has no other value of layer_scale"),
        (
            "dinov2",
            {"stack": replace(dinov2.DINOV2_SMALL.stack, mlp_features=1000)},
            "an MLP of a multiple of 384 features, but mlp_features is 1000; choose",
        ),
        (
            "dinov2",
            {"stack": dinov2.DINOV2_SMALL.stack, "image_size": (224, 240)},
            "dinov2 reads every position table as a square of patches, but image_size gives 14 x 15",
        ),
    ],
)
def test_a_config_that_hugging_face_lacks_is_not_written(family, changed, message):
    with pytest.raises(InputError, match=message):
        FAMILIES_OF_MODELS[family].hf.config_to_hf(replace(vit.VIT_SMALL, **changed))


def test_the_parameters_of_dinov2_small():
    """The count of facebook/dinov2-small, without its mask token of 384."""

    def count(num_layers):
        config = replace(dinov2.DINOV2_SMALL, stack=replace(dinov2.DINOV2_SMALL.stack, num_layers=num_layers))
        return sum(x.size for x in jax.tree.leaves(params_shapes(dinov2.Dinov2Model(config))))

    assert count(1) + 11 * (count(2) - count(1)) == 22_056_576 - 384
