"""Images as batches of patches: Hugging Face's image processing on Pillow, then patches."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ImageOps

from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.models.vit import ViTConfig

if TYPE_CHECKING:
    from PIL.Image import Image

SETTINGS = "preprocessor_config.json"

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
"""Pillow's modes with 8 bits for each colour. Pillow converts deeper modes by clipping, which is rarely wanted."""


def load_processor(folder: str | Path | None, image_size: tuple[int, int] | None = None) -> Any:
    """Returns the Hugging Face image processor in `folder`, in the version that needs only Pillow and NumPy.

    Args:
      folder: folder of `preprocessor_config.json`.
      image_size: (height, width) of the processed images; None for the processor's size. A processor that crops keeps
        its cropped share.

    Raises:
      InputError: if there is no processor, or transformers refuses one of its values.
    """
    folder = folder and Path(folder)
    if not folder or not (folder / SETTINGS).is_file():
        raise InputError(f"no image processor in {folder}; {SETTINGS} must lie beside the weights")
    processor = _read_processor(folder)
    if image_size is None or image_size == size_of(processor):
        return processor
    return _read_processor(folder, **_sizes_for(processor, image_size))


def _read_processor(folder: Path, **sizes: Any) -> Any:
    from transformers import AutoImageProcessor

    processor = hub.open_without_code(AutoImageProcessor.from_pretrained, folder / SETTINGS, backend="pil", **sizes)
    if not {"height", "width"} <= {side for side, length in dict(_output_size(processor)).items() if length}:
        raise InputError(f"{folder / SETTINGS} gives images of no fixed height and width; set both in its size")
    return processor


def _output_size(processor: Any) -> Any:
    """Returns the output size in an image processor's settings."""
    return processor.crop_size if processor.do_center_crop else processor.size


def size_of(processor: Any) -> tuple[int, int]:
    """Returns the (height, width) of an image processor's output."""
    size = _output_size(processor)
    return size["height"], size["width"]


def _sizes_for(processor: Any, image_size: tuple[int, int]) -> dict[str, dict[str, int]]:
    new = dict(zip(("height", "width"), image_size, strict=True))
    if not processor.do_center_crop:
        return {"size": new}
    scale = max(new[side] / processor.crop_size[side] for side in new)
    size = {side: round(length * scale) for side, length in dict(processor.size).items() if length}
    return {"size": size, "crop_size": new}


def process(processor: Any, images: Sequence["Image"], config: ViTConfig) -> dict[str, np.ndarray]:
    """Returns images as a batch for a ViT.

    Args:
      processor: see `load_processor`.
      images: Pillow images of any size, in any mode of 8 bits. Models with three channels get RGB (with the processor's
        handling of transparency, `do_convert_rgb`); models with one channel get grey. EXIF orientation is ignored.
      config: the model's config.

    Returns:
      A dict with `patches`, see `patchify`.

    Raises:
      InputError: if an image is deeper than 8 bits, or the processed size is not the model's.
    """
    for image in images:
        if image.mode not in MODES:
            raise InputError(f"an image of mode {image.mode!r}; convert it to 8 bits: one of {', '.join(MODES)}")
    if grey := config.num_channels == 1:
        images = [image.convert("L") for image in images]
    try:
        processed = processor(list(images), do_convert_rgb=not grey, return_tensors="np")
    except ValueError as error:
        raise InputError(
            f"the image processor refuses images of {config.num_channels} channels: {error}; "
            "use the processor of the model's own folder"
        ) from error
    return {"patches": patchify(processed["pixel_values"], config)}


def patchify(pixels: np.ndarray, config: ViTConfig) -> np.ndarray:
    """Cuts pixels into the patches of a ViT.

    Args:
      pixels: [examples, channels, height, width], the `pixel_values` of Hugging Face's processors.
      config: the model's config.

    Returns:
      float32 [examples, N, channels * patch height * patch width]. The first of N are zero, the places of the special
      tokens. The patches follow in reading order. Each is flattened in the order (channel, height, width), as in
      Hugging Face's convolution kernel.

    Raises:
      InputError: if the pixels are not of the model's shape.
    """
    expected = (config.num_channels, *config.image_size)
    if pixels.ndim != 4 or pixels.shape[1:] != expected:
        raise InputError(
            f"pixels of shape {pixels.shape}, but the model takes {('examples', *expected)}: channels, height, width; "
            "process the images to that size, or take the model to theirs by vit.with_image_size"
        )
    (rows, columns), (height, width) = config.grid, config.patch_size
    whole = pixels[:, :, : rows * height, : columns * width]
    cut = whole.reshape(len(pixels), config.num_channels, rows, height, columns, width)
    patches = cut.transpose(0, 2, 4, 1, 3, 5).reshape(len(pixels), rows * columns, -1)
    return np.pad(patches, [(0, 0), (config.num_special, 0), (0, 0)]).astype(np.float32)


def crop_and_flip(image: "Image", rng: np.random.Generator, area: tuple[float, float] = (0.5, 1.0)) -> "Image":
    """Returns a random crop of an image, mirrored with probability 1/2. Its aspect ratio is 3:4 to 4:3 of the image's.

    This is the augmentation of "Going deeper with convolutions" (arXiv 1409.4842), with larger crops for short
    fine-tuning.

    Args:
      image: a Pillow image.
      rng: source of random numbers.
      area: smallest and largest area of the crop, as a share of the image's area.
    """
    share, ratio = rng.uniform(*area), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(image.width, max(1, round(image.width * np.sqrt(share * ratio))))
    height = min(image.height, max(1, round(image.height * np.sqrt(share / ratio))))
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    part = image.crop((int(left), int(top), int(left) + width, int(top) + height))
    return ImageOps.mirror(part) if rng.random() < 0.5 else part
