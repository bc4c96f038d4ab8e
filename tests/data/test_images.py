"""Images as patches: against Hugging Face's own processor, Pillow's conversions, and PyTorch's unfold."""

import json

import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.photos import photo
from PIL import Image

from prism_jax import assets
from prism_jax.data import images
from prism_jax.data.packaged.images import IMAGE_SAMPLES
from prism_jax.errors import AssetError
from prism_jax.layers.config import TransformerConfig
from prism_jax.models.vit import ViTConfig

STACK = TransformerConfig(1, 8, 2, 8)
CONFIG = ViTConfig(STACK, image_size=(24, 32), patch_size=(4, 8))
SETTINGS = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 24, "width": 32},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


PHOTOS = [photo(53, 37), photo(32, 24), photo(20, 301), photo(1, 1)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / images.SETTINGS).write_text(json.dumps(SETTINGS))
    return tmp_path


def pixels_of(patches: np.ndarray) -> np.ndarray:
    """The pixels that patches of CONFIG were cut from, put together one by one."""
    (height, width), (rows, columns) = CONFIG.patch_size, CONFIG.grid
    pixels = np.zeros((len(patches), 3, *CONFIG.image_size), np.float32)
    for row in range(rows):
        for column in range(columns):
            patch = patches[:, 1 + row * columns + column].reshape(-1, 3, height, width)
            pixels[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width] = patch
    return pixels


REAL = ("imagenet_00_243.jpg", "imagenet_01_559.jpg", "imagenet_02_438.jpg", "cifar10_00_3.png", "cifar10_01_8.png")


def test_pixels_of_real_images_equal_hugging_faces_processor(folder):
    from transformers import ViTImageProcessorPil

    try:
        photos = [Image.open(assets.fetch(IMAGE_SAMPLES) / name) for name in REAL]
    except AssetError as error:
        pytest.skip(str(error))
    expected = ViTImageProcessorPil.from_pretrained(folder)(photos, do_convert_rgb=True, return_tensors="np")
    patches = images.process(images.load_processor(folder), photos, CONFIG)["patches"]
    np.testing.assert_array_equal(pixels_of(patches), expected["pixel_values"].astype(np.float32))


def test_pixels_equal_hugging_faces_processor(folder):
    from transformers import ViTImageProcessorPil

    expected = ViTImageProcessorPil.from_pretrained(folder)(PHOTOS, return_tensors="np")["pixel_values"]
    batch = images.process(images.load_processor(folder), PHOTOS, CONFIG)
    assert batch["patches"].shape == (4, 25, 96)
    assert batch["patches"].dtype == np.float32
    np.testing.assert_array_equal(pixels_of(batch["patches"]), expected.astype(np.float32))
    assert not batch["patches"][:, 0].any()


def test_what_the_processor_computes(folder):
    """By hand: Pillow's resize, then mean and standard deviation."""
    patches = images.process(images.load_processor(folder), PHOTOS[:1], CONFIG)["patches"]
    resized = np.asarray(PHOTOS[0].resize((32, 24), Image.Resampling.BICUBIC), np.float32) / 255
    expected = (resized - np.array([[SETTINGS["image_mean"]]])) / np.array([[SETTINGS["image_std"]]])
    assert_close(pixels_of(patches)[0], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "YCbCr", "RGBA", "LA"])
def test_every_mode_is_seen_in_rgb(mode, folder):
    processor = images.load_processor(folder)
    image = PHOTOS[0].convert(mode)
    patches = images.process(processor, [image, PHOTOS[1]], CONFIG)["patches"]
    expected = images.process(processor, [image.convert("RGB"), PHOTOS[1]], CONFIG)["patches"]
    np.testing.assert_array_equal(patches, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_mode_that_is_named_is_refused(channels, folder):
    settings = SETTINGS | {"image_mean": [0.5] * channels, "image_std": [0.5] * channels}
    (folder / images.SETTINGS).write_text(json.dumps(settings))
    config = ViTConfig(STACK, image_size=(24, 32), patch_size=(24, 32), num_channels=channels)
    pictures = [Image.new(mode, (5, 6)) for mode in images.MODES]
    assert len(images.process(images.load_processor(folder), pictures, config)["patches"]) == len(pictures)


def test_transparency_is_what_hugging_face_makes_of_it(folder):
    from transformers import ViTImageProcessorPil

    image = PHOTOS[0].convert("RGBA")
    image.putalpha(90)
    how = {"do_convert_rgb": True, "return_tensors": "np"}
    expected = ViTImageProcessorPil.from_pretrained(folder)([image], **how)["pixel_values"]
    patches = images.process(images.load_processor(folder), [image], CONFIG)["patches"]
    np.testing.assert_array_equal(pixels_of(patches), expected.astype(np.float32))


def test_models_of_one_channel_see_grey(folder):
    (folder / images.SETTINGS).write_text(json.dumps(SETTINGS | {"image_mean": [0.5], "image_std": [0.25]}))
    config = ViTConfig(STACK, image_size=(24, 32), patch_size=(24, 32), num_channels=1)
    patches = images.process(images.load_processor(folder), [PHOTOS[1]], config)["patches"]
    expected = (np.asarray(PHOTOS[1].convert("L"), np.float32) / 255 - 0.5) / 0.25
    assert_close(patches[0, 1].reshape(24, 32), expected)
    with pytest.raises(ValueError, match="the image processor refuses images of 3 channels: mean must have 3 elements"):
        images.process(images.load_processor(folder), PHOTOS, CONFIG)


@pytest.mark.parity
def test_patches_are_in_the_order_of_the_convolution():
    import torch

    config = ViTConfig(STACK, image_size=(13, 19), patch_size=(4, 3), num_channels=2)
    pixels = np.random.default_rng(0).normal(size=(2, 2, 13, 19)).astype(np.float32)
    unfolded = torch.nn.functional.unfold(torch.from_numpy(pixels), (4, 3), stride=(4, 3))
    np.testing.assert_array_equal(images.patchify(pixels, config)[:, 1:], unfolded.mT.numpy())


def test_another_size_is_the_processors_at_that_size(folder):
    assert images.size_of(images.load_processor(folder)) == (24, 32)
    processor = images.load_processor(folder, (48, 40))
    assert processor([PHOTOS[0]], return_tensors="np")["pixel_values"].shape == (1, 3, 48, 40)
    assert int(processor.resample) == 3


def test_a_processor_that_crops_keeps_its_share(folder):
    crops = {
        "image_processor_type": "BitImageProcessor",
        "do_center_crop": True,
        "crop_size": {"height": 24, "width": 24},
    }
    (folder / images.SETTINGS).write_text(json.dumps(SETTINGS | crops | {"size": {"shortest_edge": 32}}))
    assert images.size_of(images.load_processor(folder)) == (24, 24)
    processor = images.load_processor(folder, (48, 48))
    assert (images.size_of(processor), processor.size["shortest_edge"]) == ((48, 48), 64)


def test_settings_as_older_checkpoints_have_them(folder):
    """As in google/vit-base-patch16-224: a number for the size, and the class under its former name."""
    older = {"feature_extractor_type": "ViTFeatureExtractor", "size": 28, "do_resize": True, "do_normalize": True}
    (folder / images.SETTINGS).write_text(json.dumps(older))
    assert images.size_of(images.load_processor(folder)) == (28, 28)


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_deep_images_are_refused(mode, folder):
    with pytest.raises(ValueError, match=f"an image of mode '{mode}'; convert it to 8 bits: one of 1, L"):
        images.process(images.load_processor(folder), [Image.new(mode, (32, 24))], CONFIG)


def test_pixels_of_another_shape_are_refused(folder):
    with pytest.raises(
        ValueError, match=r"pixels of shape \(1, 3, 24, 24\), but the model takes \('examples', 3, 24, 32\)"
    ):
        images.patchify(np.zeros((1, 3, 24, 24)), CONFIG)
    with pytest.raises(
        ValueError, match="process the images to that size, or take the model to theirs by vit.with_image"
    ):
        images.process(images.load_processor(folder, (8, 8)), PHOTOS, CONFIG)


def test_a_folder_without_a_processor_is_refused(tmp_path):
    for folder in (tmp_path, None):
        with pytest.raises(ValueError, match="no image processor in .*; preprocessor_config.json must lie beside"):
            images.load_processor(folder)
    (tmp_path / images.SETTINGS).write_text("{")
    with pytest.raises(ValueError, match="preprocessor_config.json can't be read: .*; download it again") as error:
        images.load_processor(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / images.SETTINGS).write_text('{"image_processor_type": "ViTImageProcessor", "size": "large"}')
    with pytest.raises(ValueError, match="preprocessor_config.json has a value that transformers refuses: ") as error:
        images.load_processor(tmp_path)
    assert "\n" not in str(error.value)
