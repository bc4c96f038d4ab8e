"""Data sets of packages: tiny copies in their files' layout, and the real ones where they are cached."""

import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
from helpers.real_assets import real

from prism_jax import assets, data
from prism_jax.data import class_names, packaged
from prism_jax.data.datasets import Labelled
from prism_jax.data.packaged import brown, corpora, images, texts
from prism_jax.errors import AssetError

ROWS = (
    "1\t1.5\tgood one\r\n2\t-2.0\tbad caf\u00e9\r\n3\t0.4\tso "
    "so\r\n5_1\t-0.5\tworse\r\n5_2\t0.5\tbetter\r\n10_7\t-0.49\tneutral"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stands in for whatever asset is fetched."""
    monkeypatch.setattr(assets, "fetch", lambda asset: tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", packaged.DATASETS)
def test_an_unknown_split_is_refused_before_a_download(name, monkeypatch):
    monkeypatch.setattr(assets, "fetch", lambda asset: pytest.fail("nothing is fetched before"))
    allowed = "test" if name.endswith("_samples") else "train, test"
    with pytest.raises(ValueError, match=f"^{name} has no split 'validation'; choose one of {allowed}$"):
        data.load(name, "validation")


def test_reuters_reads_its_own_file(folder):
    (folder / "reuters-r8-test.tab").write_text("Category\tText\nd\tstring\nclass\t\ntrade\tx\nacq\ty\n")
    dataset = data.load("reuters_r8", "test")
    assert dataset.label_names == ("acq", "trade")
    assert dataset.labels.tolist() == [1, 0]


def test_snippets_are_split_by_review_and_have_no_neutral_ones(folder):
    (folder / "movieReviewSnippets_GroundTruth.txt").write_text(ROWS, encoding="utf-8")
    train, test = data.load("movie_snippets", "train"), data.load("movie_snippets", "test")
    assert train.inputs["text"] == ["good one", "bad caf\u00e9"]
    assert train.labels.tolist() == [1, 0]
    assert test.inputs["text"] == ["worse", "better"]
    assert test.labels.tolist() == [0, 1]
    assert train.label_names == ("negative", "positive")


def test_snippets_come_out_of_the_inner_archive(tmp_path):
    with tarfile.open(tmp_path / "hutto_ICWSM_2014.tar.gz", "w:gz") as archive:
        for name in ("h/tweets_GroundTruth.txt", "h/vaderSentiment.py", "h/tweets_anonDataRatings.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(ROWS.encode())
            archive.addfile(member, io.BytesIO(ROWS.encode()))
    texts.SNIPPETS.convert(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tweets_GroundTruth.txt"]


def test_tales_are_split_whole(folder):
    header = "ATU Topic\tTitle\tAbstract\tContent\nd\ts\ts\ts\nclass\t\t\t\n\n"
    (folder / "grimm-tales.tab").write_text(header + "".join(f"t\tTale {i}\ta\tgrimm {i}\n" for i in range(20)))
    (folder / "andersen.tab").write_text("Title\tContent\nstring\tstring\n\tinclude=True\n\nT\tandersen\n")
    assert data.load("tales", "test").documents == ["grimm 8", "grimm 17"]
    train = data.load("tales", "train").documents
    assert len(train) == 19
    assert train[-1] == "andersen"
    assert not set(train) & {"grimm 8", "grimm 17"}


BOOK = (
    "\ufeffLicence\r\n\r\n   CHAPTER I\r\n\r\nOne.\r\n\r\n CHAPTER II.\r\nTwo,\r\nCHAPTER is a word.\r\n--(THE "
    "END)--\r\n[A: note]\r\nEND OF BOOK\r\n"
)


@pytest.mark.parametrize(("name", "file"), [("alice", "alice29.txt"), ("botchan", "botchan.txt")])
def test_a_book_is_its_chapters_without_licence_and_notes(name, file, folder):
    (folder / file).write_bytes(BOOK.encode())
    assert data.load(name, "train").documents == ["One."]
    assert data.load(name, "test").documents == ["Two,\nCHAPTER is a word."]


def test_one_novel_is_held_out(folder):
    for name in corpora.NOVELS:
        (folder / f"{name}.txt").write_text(name)
    assert data.load("austen", "test").documents == ["persuasion"]
    assert data.load("austen", "train").documents == list(corpora.NOVELS[:-1])


def test_without_rdata_the_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PRISM_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssetError, match=r"'austen' must be .* needs rdata; run: pip install 'prism_jax\[austen\]'$"):
        data.load("austen", "test")


def idx(array):
    return gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_fashion_mnist_reads_idx_files(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(idx(pixels))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.array([9, 0, 2], np.uint8)))
    dataset = data.load("fashion_mnist", "test")
    assert [dataset.label_names[i] for i in dataset.labels] == ["Ankle boot", "T-shirt/top", "Pullover"]
    images = dataset.inputs["image"]
    assert len(images) == len(images[1:]) + 1 == 3
    assert images[2].mode == "L"
    np.testing.assert_array_equal(np.asarray(images[1:][1]), pixels[2])


def test_what_is_no_idx_file_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\0\0\x0d\1\0\0\0\0"))
    with pytest.raises(ValueError, match=r"a.gz is no idx file of bytes; delete its folder"):
        images.read_idx(tmp_path / "a.gz")


def test_the_last_digits_of_each_class_are_held_out(folder):
    rows = [",".join(["7"] * 783 + [str(i % 500 % 251), str(i // 500)]) for i in range(5000)]
    (folder / "mnist_5k.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    train, test = data.load("mnist_5k", "train"), data.load("mnist_5k", "test")
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    pixels = np.asarray(test.inputs["image"][0])
    assert (pixels.shape, pixels[0, 0], pixels[-1, -1]) == ((28, 28), 7, 400 % 251)


def test_samples_are_labelled_by_their_files_names(folder):
    from PIL import Image

    for name, colour in (("cifar10_01_9", 50), ("cifar10_00_3", 200), ("cifar100_00_3", 9)):
        Image.new("L", (2, 2), colour).save(folder / f"{name}.png")
    dataset = data.load("cifar10_samples", "test")
    assert [dataset.label_names[i] for i in dataset.labels] == ["cat", "truck"]
    assert [image.getpixel((0, 0)) for image in dataset.inputs["image"]] == [(200,) * 3, (50,) * 3]
    assert [image.mode for image in dataset.inputs["image"][:1]] == ["RGB"]
    assert len(class_names.CIFAR100) == len(set(class_names.CIFAR100)) == 100
    assert list(class_names.CIFAR100) == sorted(class_names.CIFAR100)


COUNTS = {
    "newsgroups": (texts.NEWSGROUPS, 11_293, 7_528),
    "reuters_r8": (texts.REUTERS, 5_485, 2_189),
    "reuters_r52": (texts.REUTERS, 6_532, 2_568),
    "movie_snippets": (texts.SNIPPETS, 8_060, 2_012),
    "tweet_snippets": (texts.SNIPPETS, 2_749, 683),
    "amazon_snippets": (texts.SNIPPETS, 2_392, 593),
    "nyt_snippets": (texts.SNIPPETS, 2_407, 563),
    "tales": (corpora.TALES, 51, 6),
    "austen": (corpora.AUSTEN, 5, 1),
    "alice": (corpora.ALICE, 11, 1),
    "botchan": (corpora.BOTCHAN, 10, 1),
    "brown": (brown.BROWN, 407, 93),
    "brown_text": (brown.BROWN, 407, 93),
    "brown_cloze/verb": (brown.BROWN, 8_065, 1_867),
    "brown_cloze/noun": (brown.BROWN, 8_409, 1_984),
    "brown_cloze/preposition": (brown.BROWN, 7_118, 1_685),
    "brown_cloze/name": (brown.BROWN, 1_938, 417),
    "fashion_mnist": (images.FASHION_MNIST, 60_000, 10_000),
    "mnist_5k": (images.MNIST_5K, 4_000, 1_000),
    "imagenet_samples": (images.IMAGE_SAMPLES, None, 20),
    "cifar10_samples": (images.IMAGE_SAMPLES, None, 20),
    "cifar100_samples": (images.IMAGE_SAMPLES, None, 20),
}


def test_every_data_set_is_counted():
    assert set(COUNTS) == set(packaged.DATASETS)


@pytest.mark.parametrize("name", COUNTS)
def test_the_real_ones_have_as_many_examples_as_is_said(name):
    asset, train, test = COUNTS[name]
    real(asset)
    dataset = data.load(name, "test")
    assert len(dataset) == test
    if isinstance(dataset, Labelled):
        assert 0 <= dataset.labels.min() <= dataset.labels.max() < len(dataset.label_names)
        assert all(len(items) == test for items in dataset.inputs.values())
    if train is not None and not name.startswith("brown_cloze"):  # five seconds each
        assert len(data.load(name, "train")) == train


def test_both_splits_of_reuters_r52_have_the_same_classes():
    real(texts.REUTERS)
    names = [data.load("reuters_r52", split).label_names for split in ("train", "test")]
    assert names[0] == names[1]
    assert len(names[0]) == 52


def test_a_real_image_of_each_class_of_fashion_mnist_is_no_blank():
    real(images.FASHION_MNIST)
    dataset = data.load("fashion_mnist", "test")
    for label in range(10):
        image = dataset.inputs["image"][int(np.argmax(dataset.labels == label))]
        assert image.size == (28, 28)
        assert np.asarray(image).std() > 10
