"""ViT against Hugging Face's PyTorch ViT, and against golden files where torch is not installed."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers.cases import one_is_quick
from helpers.closeness import assert_close
from helpers.hf_bert import save_hf_model
from helpers.hf_export import reopened
from helpers.hf_vit import ONE_DEVICE, SHAPES, WHOLE, answer, hf_config, program, random_pixels, run_hf, run_ours
from helpers.paths import GOLDEN
from safetensors.numpy import load_file

import prism_jax as pj
from prism_jax import weights
from prism_jax.data import images
from prism_jax.layers.config import TransformerConfig
from prism_jax.models import vit, vit_hf
from prism_jax.programs import params_shapes


@pytest.mark.parity
@pytest.mark.parametrize("shape", SHAPES)
def test_hidden_states_and_pooler_equal_hugging_face(shape, tmp_path):
    pixels = random_pixels(config := hf_config(shape))
    reference = run_hf(save_hf_model("ViTModel", config, tmp_path), pixels)
    hidden, pooled = run_ours(vit.ViTModel, tmp_path, pixels)
    assert_close(hidden, reference.last_hidden_state.numpy())
    assert_close(pooled, reference.pooler_output.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("shape", one_is_quick("plain", SHAPES))
def test_every_layer_equals_hugging_face(shape, tmp_path):
    pixels = random_pixels(config := hf_config(shape))
    reference = run_hf(save_hf_model("ViTModel", config, tmp_path), pixels, output_hidden_states=True).hidden_states
    loaded = weights.load(vit.ViTModel, str(tmp_path))
    parts = pj.split({"patches": images.patchify(pixels, loaded.model.config)}, 1)
    layout = pj.Layout(np.int32(0), parts.real_BN, None, num_parts=1, num_tokens=parts.num_tokens)

    @jax.jit
    def captured(params, tokens):
        named = lambda module, _: str(module.name).startswith("block_")  # noqa: E731
        how = {"method": "part", "capture_intermediates": named}
        return loaded.model.apply({"params": params}, tokens, layout, WHOLE, **how)[1]

    blocks = captured(loaded.params, parts.tokens)["intermediates"]["encoder"]["blocks"]
    ours = [blocks[f"block_{i}"]["__call__"][0][0] for i in range(loaded.model.config.stack.num_layers)]
    assert len(ours) == len(reference) - 1  # theirs begin with the embeddings
    for mine, hidden in zip(ours, reference[1:], strict=True):
        assert_close(mine, hidden.numpy())


@pytest.mark.parity
def test_a_head_on_the_class_row_equals_hugging_face(tmp_path):
    pixels = random_pixels(config := hf_config())
    reference = run_hf(save_hf_model("ViTForImageClassification", config, tmp_path), pixels)
    assert_close(run_ours(vit.ViTForImageClassification, tmp_path, pixels), reference.logits.numpy())
    exact = run_ours(vit.ViTForImageClassification, tmp_path, pixels, pj.AllGather(), pj.on_one_device(4))
    assert_close(exact, reference.logits.numpy())


@pytest.mark.parity
def test_features_are_the_class_row_and_the_pooler_of_hugging_face(tmp_path):
    pixels = random_pixels(config := hf_config())
    reference = run_hf(save_hf_model("ViTModel", config, tmp_path), pixels)
    how = pj.AllGather(), pj.on_one_device(3)
    features = run_ours(vit.ViTForImageFeatures, tmp_path, pixels, *how)
    assert_close(features, reference.last_hidden_state[:, 0].numpy())
    assert_close(run_ours(vit.ViTForPooledFeatures, tmp_path, pixels, *how), reference.pooler_output.numpy())


@pytest.mark.parity
def test_a_checkpoint_without_a_pooler(tmp_path):
    import torch
    from transformers import ViTModel

    torch.manual_seed(0)
    model = ViTModel(config := hf_config(), add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    expected = run_hf(model, pixels := random_pixels(config)).last_hidden_state.numpy()
    assert_close(run_ours(vit.ViTHiddenStates, tmp_path, pixels), expected)
    with pytest.raises(ValueError, match=r"pooler.dense.weight is missing \(choose a model class without a pooler"):
        weights.load(vit.ViTModel, str(tmp_path))


@pytest.mark.parity
def test_the_model_that_predicts_masked_patches_is_read_as_an_encoder(tmp_path):
    pixels = random_pixels(config := hf_config(encoder_stride=4))
    model = save_hf_model("ViTForMaskedImageModeling", config, tmp_path)
    expected = run_hf(model.vit, pixels).last_hidden_state.numpy()
    assert_close(run_ours(vit.ViTHiddenStates, tmp_path, pixels), expected)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification"])
def test_the_module_names_of_transformers_5_are_read(kind, tmp_path):
    model = save_hf_model(kind, hf_config(), tmp_path / "old")
    model.save_pretrained(tmp_path / "new", save_original_format=False)
    old, new = (load_file(tmp_path / name / "model.safetensors").keys() for name in ("old", "new"))
    assert len(old - new) == 32
    ours = [weights.load(getattr(vit, kind), str(tmp_path / name)).params for name in ("old", "new")]
    jax.tree.map(np.testing.assert_array_equal, *ours)


@pytest.fixture(scope="module")
def at_224_pixels(tmp_path_factory):
    """A small stack at the real resolution, 197 tokens: our model, its parameters, pixels, and what PyTorch says."""
    folder = tmp_path_factory.mktemp("vit_224")
    pixels = random_pixels(config := hf_config(image_size=224, patch_size=16, initializer_range=0.1), examples=1)
    reference = run_hf(save_hf_model("ViTModel", config, folder), pixels).last_hidden_state.numpy()
    loaded = weights.load(vit.ViTHiddenStates, str(folder), num_tokens=197)
    assert_close(one_device := answer(loaded.model, loaded.params, pixels), reference)
    return loaded.model, loaded.params, pixels, reference, one_device


@pytest.mark.parity
@pytest.mark.parametrize("num_parts", one_is_quick(3, [2, 3, 4]))
def test_197_tokens_over_several_devices(num_parts, runner, at_224_pixels):
    model, params, pixels, reference, one_device = at_224_pixels
    run = runner(num_parts)
    exact = answer(model, params, pixels, pj.AllGather(), run)
    assert_close(exact, reference)
    assert_close(exact, one_device)
    segments = answer(model, params, pixels, pj.SegmentMeans(10), run)
    assert np.isfinite(segments).all()
    assert 1e-3 < np.abs(segments - reference).max() < 2 * np.abs(reference).max()


@pytest.mark.parity
@pytest.mark.parametrize("image_size", one_is_quick((13, 17), [(20, 20), (8, 8), (12, 28), (13, 17)]), ids=str)
def test_another_resolution_equals_hugging_face(image_size, tmp_path):
    reference = save_hf_model("ViTModel", hf_config(), tmp_path)
    pixels = np.random.default_rng(1).normal(size=(2, 3, *image_size)).astype(np.float32)
    expected = run_hf(reference, pixels, interpolate_pos_encoding=True).last_hidden_state.numpy()
    loaded = weights.load(vit.ViTHiddenStates, str(tmp_path))
    model, params = vit.with_image_size(loaded.model, loaded.params, image_size)
    assert model.config.image_size == image_size
    assert_close(answer(model, params, pixels), expected)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("kind", "shape"), [("ViTForImageClassification", "plain"), *(("ViTModel", s) for s in SHAPES)]
)
def test_an_export_is_read_by_hugging_face(kind, shape, tmp_path):
    config = hf_config(shape)
    reference = save_hf_model(kind, config, tmp_path / "theirs")
    pixels = random_pixels(config)
    back = reopened(weights.load(getattr(vit, kind), str(tmp_path / "theirs")), reference, tmp_path / "ours")
    for before, after in zip(run_hf(reference, pixels).values(), run_hf(back, pixels).values(), strict=True):
        np.testing.assert_array_equal(before, after)
    ours, original = back.config.to_dict(), config.to_dict()
    same = set(vit_hf.SUPPORTED) & set(original)
    assert {name: ours[name] for name in same} == {name: original[name] for name in same}


@pytest.mark.parity
def test_an_export_at_another_resolution(tmp_path):
    reference = save_hf_model("ViTModel", hf_config(), tmp_path / "theirs")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}, "resample": 3}
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(settings))
    loaded = weights.load(vit.ViTModel, str(tmp_path / "theirs"))
    model, params = vit.with_image_size(loaded.model, loaded.params, (16, 24))
    weights.export(weights.Pretrained(model, params, loaded.folder), tmp_path / "ours")
    back = type(reference).from_pretrained(tmp_path / "ours").eval()
    pixels = np.random.default_rng(1).normal(size=(1, 3, 16, 24)).astype(np.float32)
    expected = run_hf(reference, pixels, interpolate_pos_encoding=True)
    assert_close(run_hf(back, pixels).pooler_output.numpy(), expected.pooler_output.numpy())
    assert back.config.image_size == [16, 24]
    processor = images.load_processor(tmp_path / "ours")
    assert (images.size_of(processor), int(processor.resample)) == ((16, 24), 3)


def test_golden_outputs_without_torch():
    """Outputs of Hugging Face's PyTorch model, written by `python tests/golden/make.py`."""
    case = json.loads((GOLDEN / "vit.json").read_text())
    pixels = np.array(case["pixels"], np.float32)
    logits = run_ours(vit.ViTForImageClassification, GOLDEN / case["folder"], pixels)
    assert_close(logits, np.array(case["logits"], np.float32))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(vit.VIT_SMALL, 21_813_504), (vit.VIT_BASE, 86_389_248), (vit.VIT_LARGE, 304_351_232)],
    ids=["vit-small", "vit-base", "vit-large"],
)
def test_parameter_counts(config, parameters):
    """The counts of Hugging Face's `ViTModel` of these shapes, 224 pixels in patches of 16, with its pooler."""
    assert sum(x.size for x in jax.tree.leaves(params_shapes(vit.ViTModel(config)))) == parameters
    assert config.num_tokens == 197


@pytest.mark.parity
@pytest.mark.parametrize("config", [vit.VIT_SMALL, vit.VIT_BASE, vit.VIT_LARGE], ids=["small", "base", "large"])
def test_parameter_counts_are_those_of_pytorch(config):
    import torch
    from transformers import ViTConfig, ViTModel

    with torch.device("meta"):
        reference = ViTModel(ViTConfig.from_dict(vit_hf.config_to_hf(config)))
    ours = params_shapes(vit.ViTModel(config))
    assert sum(x.size for x in jax.tree.leaves(ours)) == reference.num_parameters()


def test_the_config_comes_back():
    oblong = replace(vit.VIT_SMALL, image_size=(32, 48), patch_size=(8, 4), pooler_features=7, num_channels=1)
    for config in (vit.VIT_BASE, oblong, replace(oblong, stack=TransformerConfig(1, 8, 2, 8, qkv_bias=False))):
        from transformers import ViTConfig

        back = vit_hf.config_from_hf(ViTConfig.from_dict(vit_hf.config_to_hf(config)).to_dict())
        assert back == replace(config, pooler_features=config.pooler_features or config.stack.features)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_act": "mish"}, r"hidden_act='mish' \(implemented: 'gelu'"),
        ({"pooler_act": "mish", "rope_theta": 1.0}, "(?=.*pooler_act='mish')(?=.*rope_theta=1.0)"),
        ({"chunk_size_feed_forward": 8}, "chunk_size_feed_forward=8"),
        ({"image_size": [8, 8, 8]}, r"image_size is \[8, 8, 8\]; it must be a number, or two"),
        ({"patch_size": 13}, "patches of 13 x 13 pixels don't fit in images of 12 x 12 pixels; choose patch_size <="),
    ],
)
def test_a_config_that_is_not_implemented_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        vit_hf.config_from_hf(hf_config().to_dict() | changed)


def test_another_number_of_patches_is_refused():
    model = vit.ViTForImageFeatures(vit.VIT_BASE)
    message = "a sequence of 196 tokens, but an image of 224 x 224 pixels .* has 197, .* choose num_tokens = 197"
    with pytest.raises(ValueError, match=message):
        model.check(196)

    def refused(shape, message):
        parts = pj.split({"patches": np.zeros(shape, np.float32)}, 1)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda params: pj.forward(model, params, parts, WHOLE, ONE_DEVICE), params_shapes(model))

    refused((1, 196, 768), message)
    refused((1, 197, 256), "patches of 256 numbers, but 3 channels of 16 x 16 pixels are 768; make them with")


def test_dropout_is_drawn_for_the_embeddings_too():
    stack = TransformerConfig(0, 8, 2, 8, dropout=0.5)
    model = vit.ViTHiddenStates(vit.ViTConfig(stack, image_size=(8, 8), patch_size=(4, 4)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params_shapes(model))
    batch = {"patches": np.ones((2, 5, 48), np.float32)}
    run, keys = pj.on_one_device(2), (None, jax.random.key(1))
    plain, dropped = (program(model, pj.AllGather(), run)(params, run.split(batch, key)) for key in keys)
    assert np.abs(plain - dropped).max() > 0.1
