"""Folders of data: any name, and nothing that is hidden in them."""

import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from prism_jax import data
from prism_jax.errors import InputError

NAMES = (
    "v2",
    "va",
    "v[2]",
    "v[!a]",
    "v[[]2]",
    "v*",
    "v?",
    "v{a,2}",
    "v**",
    "**",
    "v(2)",
    "v a",
    "~v",
    "%76",
    "v#2",
    ".v[2]",
    "é",
)
"""Of folders side by side. As patterns, most of them mean another one too."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of its own, so that no test sees or leaves a copy in the user's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def add(folder: Path, text: str) -> None:
    """A split of a table, of a text and of images, in which `text` stands."""
    for place in (folder / "sst2", folder / "train" / text):
        place.mkdir(parents=True)
    (folder / "sst2" / "train.jsonl").write_text(json.dumps({"sentence": text, "label": 1}) + "\n")
    (folder / "train.txt").write_text(text)
    Image.new("RGB", (1, 1)).save(folder / "train" / text / "a.png")


def results(source: str) -> list:
    return [
        data.load("glue/sst2", "train", source).inputs["text"],
        data.load("text", "train", source).documents,
        list(data.load("imagenet", "train", source).label_names),
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("folders")
    for name in NAMES:
        add(place / name, f"in {name}")
    return place


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_read_whatever_its_name(folders, name, monkeypatch):
    assert results(str(folders / name)) == [[f"in {name}"]] * 3
    monkeypatch.chdir(folders / name)
    assert data.load("glue/sst2", "train", ".").inputs["text"] == [f"in {name}"]


def test_a_name_that_means_an_archive_is_refused(tmp_path):
    add(tmp_path / "a::b", "text")
    with pytest.raises(
        InputError, match="tables can't be read from '.*a::b.*', as '::' means an archive there; rename the"
    ):
        data.load("glue/sst2", "train", str(tmp_path / "a::b"))
    assert data.load("text", "train", str(tmp_path / "a::b")).documents == ["text"]
    assert data.load("imagenet", "train", str(tmp_path / "a::b")).label_names == ("text",)


@pytest.mark.parametrize("name", ["v$NUMBER", "v${NUMBER}"])
def test_a_name_that_means_another_folder_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.setenv("NUMBER", "2")
    add(tmp_path / name, "text")
    add(tmp_path / "v2", "other text")
    with pytest.raises(
        InputError, match=r"tables can't be read from '.*v\$.*', as '\$' stands for an environment variable"
    ):
        data.load("glue/sst2", "train", str(tmp_path / name))
    assert data.load("text", "train", str(tmp_path / name)).documents == ["text"]
    monkeypatch.delenv("NUMBER")
    assert data.load("glue/sst2", "train", str(tmp_path / name)).inputs["text"] == ["text"]


def test_what_is_hidden_does_not_count(tmp_path):
    source = tmp_path / ".cache" / "folder"  # where the folder itself lies does not matter
    add(source, "text")
    before = results(str(source))
    for place in (".ipynb_checkpoints", "__MACOSX", ".cache"):
        add(source / place, "copy")
        add(source / "train" / place, "copy")
        (source / "sst2" / "train" / place).mkdir(parents=True)
        (source / "sst2" / "train" / place / "a.jsonl").write_text("{")
    for place in (source, source / "sst2", source / "train", source / "train" / "text"):
        for name in ("._train.txt", ".train.txt", "._train.jsonl", ".train.parquet", "._a.png", ".a.png", ".DS_Store"):
            (place / name).write_bytes(b"\0no text, table or image")
    assert results(str(source)) == before
    assert len(data.load("imagenet", "train", str(source))) == 1
    data.load("imagenet", "train", str(source)).inputs["image"][0].load()
    (source / "train" / "text" / "a.png").write_bytes(b"no image")
    with pytest.raises(
        InputError, match="example 0 of ImageNet-1k, train can't be read: Pillow knows no image like that; "
    ):
        data.load("imagenet", "train", str(source)).inputs["image"][0]


def test_a_folder_is_no_file(tmp_path):
    add(tmp_path, "text")
    for name in ("train-2.txt", "train-2.jsonl", "sst2/train-2.jsonl", "train/text/b.png"):
        (tmp_path / name).mkdir()
    assert results(str(tmp_path)) == [["text"], ["text"], ["text"]]


def test_a_link_that_leads_nowhere_is_refused(tmp_path):
    add(tmp_path, "text")
    (tmp_path / "train-2.txt").symlink_to(tmp_path / "gone")
    (tmp_path / "train" / "text" / "b.png").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"train-2\.txt can't be read: No such file or directory"):
        data.load("text", "train", str(tmp_path))
    with pytest.raises(InputError, match=r"b\.png can't be read: No such file or directory"):
        data.load("imagenet", "train", str(tmp_path)).inputs["image"][1]


@pytest.mark.parametrize("content", ["", " \n\t"])
def test_texts_without_text_are_refused(tmp_path, content):
    (tmp_path / "train.txt").write_text(content)
    with pytest.raises(InputError, match=r"train has no text in .*train\.txt; choose another source"):
        data.load("text", "train", str(tmp_path))
