"""The sets of the hub, from tiny copies in its layout."""

import io
import json
import os
import socket
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prism_jax import data
from prism_jax.data import class_names, hub_sets
from prism_jax.data.datasets import Cloze, Corpus, subset
from prism_jax.errors import InputError
from prism_jax.metrics.scores import METRICS


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of its own, so that no test sees or leaves a copy in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def picture(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (4, 3), colour)


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    picture(colour).save(buffer, "png")
    return buffer.getvalue()


RED, GREEN = (250, 0, 0), (0, 250, 0)
IMAGES = [{"bytes": png(RED), "path": "r.png"}, {"bytes": png(GREEN), "path": None}]


def write(path: Path, columns: dict, features: datasets.Features | None = None) -> Path:
    """A Parquet file as others write it, or, with features, as the `datasets` library does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if features:
        datasets.Dataset.from_dict(columns, features).to_parquet(path)
    else:
        pq.write_table(pa.table(columns), path)
    return path


def classes(dataset) -> list[str]:
    return [dataset.label_names[label] for label in dataset.labels]


@pytest.mark.parametrize(
    ("name", "path", "columns", "split", "expected"),
    [
        ("cifar10", "plain_text/test", ("img", "label"), "test", ["truck", "airplane"]),
        ("cifar100", "cifar100/train", ("img", "fine_label"), "train", ["beaver", "apple"]),
        ("imagenet", "data/validation", ("image", "label"), "test", ["class 9", "class 0"]),
    ],
)
@pytest.mark.parametrize("named", [False, True], ids=["plain", "named"])
def test_images(tmp_path, name, path, columns, split, expected, named):
    image, label = columns
    labels = [9 if name != "cifar100" else 4, 0]
    features = None
    if named:  # the file's own names win
        expected = ["n9", "n0"] if name != "cifar100" else ["n4", "n0"]
        classes_of = datasets.ClassLabel(names=[f"n{i}" for i in range(10)])
        features = datasets.Features({image: datasets.Image(), label: classes_of})
    write(tmp_path / f"{path}-00000-of-00001.parquet", {image: IMAGES, label: labels}, features)
    dataset = data.load(name, split, str(tmp_path))
    assert classes(dataset) == expected
    assert [seen.getpixel((0, 0)) for seen in dataset.inputs["image"]] == [RED, GREEN]
    assert dataset.inputs["image"][-1].size == (4, 3)
    assert [seen.getpixel((0, 0)) for seen in dataset.inputs["image"][1:]] == [GREEN]
    assert subset(dataset, 1).inputs["image"][0].getpixel((0, 0)) == GREEN
    assert dataset.metrics == ("accuracy_percent",)


def test_class_names_of_cifar():
    assert len(class_names.CIFAR10) == 10
    assert len(hub_sets.CIFAR100) == 100
    assert list(hub_sets.CIFAR100) == sorted(hub_sets.CIFAR100)


def test_shards_are_read_in_order(tmp_path):
    for shard in (1, 0, 2):
        columns = {"sentence": [f"s{shard}"], "label": [shard % 2]}
        write(tmp_path / "sst2" / f"train-0000{shard}-of-00003.parquet", columns)
    assert data.load("glue/sst2", "train", str(tmp_path)).inputs["text"] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("place", ["sst2/train.parquet", "train-00000-of-00001.parquet", "sst2/train/0000.parquet"])
def test_other_places_of_a_split(tmp_path, place):
    write(tmp_path / place, {"sentence": ["good"], "label": [1]})
    assert data.load("glue/sst2", "train", str(tmp_path)).inputs["text"] == ["good"]


@pytest.mark.parametrize("val", ["val", "validation"])
def test_imagenet_as_a_folder_of_images(tmp_path, val):
    for wnid, colour in (("n02", GREEN), ("n01", RED)):
        for split in ("train", val):
            (tmp_path / split / wnid).mkdir(parents=True)
            (tmp_path / split / wnid / "a.JPEG").write_bytes(png(colour))
        (tmp_path / "train" / wnid / "b.JPEG").write_bytes(png(colour))
        (tmp_path / "train" / wnid / "notes.txt").write_text("no image")
    dataset = data.load("imagenet", "test", str(tmp_path))
    assert classes(dataset) == ["n01", "n02"]
    assert [seen.getpixel((0, 0)) for seen in dataset.inputs["image"]] == [RED, GREEN]
    assert classes(data.load("imagenet", "train", str(tmp_path))) == ["n01", "n01", "n02", "n02"]
    with pytest.raises(InputError, match="no split 'test' in"):
        data.load("imagenet", "hidden_test", str(tmp_path))


def test_the_classes_of_a_folder_of_images_are_those_of_its_training_split(tmp_path):
    def add(split, wnid):
        (tmp_path / split / wnid).mkdir(parents=True)
        (tmp_path / split / wnid / "a.JPEG").write_bytes(png(RED))

    for place in (("train", "n01"), ("train", "n02"), ("train", "n03"), ("val", "n01"), ("val", "n03")):
        add(*place)
    assert classes(data.load("imagenet", "test", str(tmp_path))) == ["n01", "n03"]
    assert data.load("imagenet", "test", str(tmp_path)).label_names == ("n01", "n02", "n03")
    add("val", "n04")
    with pytest.raises(InputError, match="val has the class n04, which .*train lacks; give both the same folders"):
        data.load("imagenet", "test", str(tmp_path))


def test_images_are_decoded_when_they_are_asked_for(tmp_path):
    broken = [IMAGES[0], {"bytes": png(GREEN)[:40], "path": None}]
    write(tmp_path / "plain_text" / "test.parquet", {"img": broken, "label": [0, 1]})
    images = data.load("cifar10", "test", str(tmp_path)).inputs["image"]
    assert images[0].getpixel((0, 0)) == RED
    with pytest.raises(InputError, match="example 1 of CIFAR-10, test can't be read: .*; get it again"):
        images[1]
    with pytest.raises(IndexError):
        images[2]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([IMAGES[0], None], "example 1 of CIFAR-10, test is null; store the bytes of every image in the column 'img'"),
        ([IMAGES[0], {"bytes": None, "path": None}], "example 1 of CIFAR-10, test is null"),
        (
            [IMAGES[0], {"bytes": None, "path": "{secret}"}],
            "example 1 of CIFAR-10, test names '.*secret.png' in place of an",
        ),
        (["{secret}", "{secret}"], "example 0 of CIFAR-10, test names '.*secret.png' in place of an image"),
        (["https://localhost/x.png"] * 2, "example 0 of CIFAR-10, test names 'https://localhost/x.png' in place of"),
        ([{"path": "{secret}"}] * 2, "example 0 of CIFAR-10, test names '.*secret.png' in place of an image"),
        ([5, 6], "the column 'img' of CIFAR-10, test holds no images"),
    ],
)
def test_only_bytes_in_a_table_are_images(tmp_path, images, message):
    """A table that names a file of this machine, or an address, does not have it read."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(RED))

    def filled(value):
        if isinstance(value, dict):
            return {name: filled(part) for name, part in value.items()}
        return value.replace("{secret}", str(secret)) if isinstance(value, str) else value

    write(tmp_path / "plain_text" / "test.parquet", {"img": [filled(image) for image in images], "label": [0, 1]})
    with pytest.raises(InputError, match=message) as refused:
        data.load("cifar10", "test", str(tmp_path))
    assert "\n" not in str(refused.value)


def test_an_image_of_too_many_pixels_is_refused(tmp_path):
    buffer = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(buffer, "png")
    write(tmp_path / "plain_text" / "test.parquet", {"img": [IMAGES[0], {"bytes": buffer.getvalue()}], "label": [0, 1]})
    for folder, image in (("n01", png(GREEN)), ("n02", buffer.getvalue())):
        (tmp_path / "val" / folder).mkdir(parents=True)
        (tmp_path / "val" / folder / "a.png").write_bytes(image)
    images = data.load("cifar10", "test", str(tmp_path)).inputs["image"]
    with pytest.raises(
        InputError, match="example 1 of CIFAR-10, test is too large: .*; scale the image down, or leave it out"
    ):
        images[1]
    images = data.load("imagenet", "test", str(tmp_path)).inputs["image"]
    assert images[0].getpixel((0, 0)) == GREEN
    with pytest.raises(InputError, match="example 1 of ImageNet-1k, validation is too large: .*196000000 pixels"):
        images[1]


def test_an_image_is_turned_as_its_file_says(tmp_path):
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6
    (tmp_path / "val" / "n01").mkdir(parents=True)
    picture(RED).save(tmp_path / "val" / "n01" / "a.jpg", exif=exif)
    assert data.load("imagenet", "test", str(tmp_path)).inputs["image"][0].size == (3, 4)
    write(tmp_path / "plain_text" / "test.parquet", {"img": [(tmp_path / "val/n01/a.jpg").read_bytes()], "label": [0]})
    assert data.load("cifar10", "test", str(tmp_path)).inputs["image"][0].size == (3, 4)


@pytest.mark.parametrize("task", hub_sets.GLUE)
def test_glue(tmp_path, task):
    of = hub_sets.GLUE[task]
    labels: list = [0, 1] if of.label_names else [0.5, 4.75]
    folder = tmp_path / task
    matching, also = ("_matched", "_mismatched") if task == "mnli" else ("", "")
    for split in {"train", *(f"{kind}{one}" for kind in ("validation", "test") for one in (matching, also))}:
        columns = {column: [f"{column} {i} {split}" for i in range(2)] for column in of.columns}
        hidden = split.startswith("test")
        columns |= {"label": [-1 if of.label_names else -1.0] * 2 if hidden else labels, "idx": [0, 1]}
        write(folder / f"{split}-00000-of-00001.parquet", columns)
    test = data.load(f"glue/{task}", "test", str(tmp_path))
    assert test.labels.tolist() == labels
    assert test.labels.dtype.kind == ("i" if of.label_names else "f")
    assert list(test.inputs) == ["text", "pair"][: len(of.columns)]
    assert [texts[1] for texts in test.inputs.values()] == [f"{column} 1 validation{matching}" for column in of.columns]
    assert test.name.endswith(f", validation{matching}")
    assert all(metric in METRICS for metric in test.metrics)
    assert data.load(f"glue/{task}", "train", str(tmp_path)).inputs["text"][0].endswith(" 0 train")
    assert data.load(f"glue/{task}", f"validation{matching}", str(tmp_path)).inputs == test.inputs
    other = data.load(f"glue/{task}", f"validation{also}", str(tmp_path))
    assert other.inputs["text"][0].endswith(f" 0 validation{also}")
    for split, of_hub in {"hidden_test": f"test{matching}", f"hidden_test{also}": f"test{also}"}.items():
        hidden_test = data.load(f"glue/{task}", split, str(tmp_path))
        assert hidden_test.labels is None
        assert hidden_test.inputs["text"][0].endswith(f" 0 {of_hub}")
        assert hidden_test.name.endswith(f", hidden_{of_hub}")


def test_glue_has_its_official_metrics_and_classes():
    official = {task: of.metrics for task, of in hub_sets.GLUE.items() if of.metrics != ("accuracy_percent",)}
    assert official == {
        "cola": ("matthews_percent",),
        "mrpc": ("accuracy_percent", "f1_percent"),
        "qqp": ("accuracy_percent", "f1_percent"),
        "stsb": ("pearson_percent", "spearman_percent"),
    }
    # F1 counts class 1: the pairs that mean the same.
    assert hub_sets.GLUE["mrpc"].label_names[1] == "equivalent"
    assert hub_sets.GLUE["qqp"].label_names[1] == "duplicate"


def cloze(path: Path, **columns) -> None:
    story = [f"{number} ." for number in range(1, 21)]
    words = [f"word{i}" for i in range(10)]
    rows = {
        "sentences": [story, story],
        "question": ["21 Then came XXXXX .", "21 `` XXXXX ! ''"],
        "answer": ["word3", "word9"],
        "options": [words, words],
    }
    write(path, rows | columns)


@pytest.mark.parametrize("kind", ["CN", "NE", "V", "P"])
def test_childrens_book_test(tmp_path, kind):
    cloze(tmp_path / kind / "test-00000-of-00001.parquet")
    dataset = data.load(f"cbt/{kind}", "test", str(tmp_path))
    assert isinstance(dataset, Cloze)
    assert dataset.contexts[0] == " ".join(f"{number} ." for number in range(1, 21))
    assert dataset.endings[0][3] == " 21 Then came word3 ."
    assert dataset.endings[1][9] == " 21 `` word9 ! ''"
    assert [len(endings) for endings in dataset.endings] == [10, 10]
    assert dataset.answers.tolist() == [3, 9]
    assert dataset.take(np.array([1])).endings[0] == dataset.endings[1]


def test_missing_options_of_a_cloze_are_filled_with_a_wrong_one(tmp_path):
    cloze(tmp_path / "CN" / "test.parquet", options=[["word3", "a"], ["b", "c", "word9"]])
    dataset = data.load("cbt/CN", "test", str(tmp_path))
    assert dataset.endings[0] == (" 21 Then came word3 .", " 21 Then came a .", " 21 Then came a .")
    assert dataset.answers.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answer": ["word3", "no"]}, "question 1 of CBT-CN, test has the answer 'no', but the options"),
        (
            {"options": [["word3", "a"], None]},
            "question 1 of CBT-CN, test has the answer 'word9', but the options None",
        ),
        (
            {"options": [["word3", None], ["word9", "a"]]},
            "question 0 of CBT-CN, test has the answer 'word3', but the options",
        ),
        ({"question": ["XXXXX", None]}, "example 1 of CBT-CN, test has None in its column 'question'"),
    ],
)
def test_a_wrong_cloze_is_refused(tmp_path, columns, message):
    cloze(tmp_path / "CN" / "test.parquet", **columns)
    with pytest.raises(InputError, match=message):
        data.load("cbt/CN", "test", str(tmp_path))


@pytest.mark.parametrize("sentences", [[["a", "b"], ["a", None]], ["one", "text"], [["a", "b"], None]])
def test_a_cloze_without_sentences_is_refused(tmp_path, sentences):
    cloze(tmp_path / "CN" / "test.parquet", sentences=sentences)
    contexts = data.load("cbt/CN", "test", str(tmp_path)).contexts
    with pytest.raises(InputError, match="example 1 of CBT-CN, test can't be read: .*; get it again"):
        contexts[1]


@pytest.mark.parametrize("names", [("a.txt", "b.txt"), ("deep/a.txt", "deep/b.txt")])
def test_text_files_of_a_folder(tmp_path, names):
    for split in ("train", "validation"):
        for name in names:
            path = tmp_path / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{split} {path.stem}\r\nâ\n".encode())
    dataset = data.load("text", "validation", str(tmp_path))
    assert isinstance(dataset, Corpus)
    assert dataset.documents == ["validation a\r\nâ\n", "validation b\r\nâ\n"]


def test_text_files_by_their_names(tmp_path):
    for name in ("train.txt", "train-2.txt", "train_more.txt", "test.txt", "trainer.txt"):
        (tmp_path / name).write_text(name)
    assert sorted(data.load("text", "train", str(tmp_path)).documents) == ["train-2.txt", "train.txt", "train_more.txt"]
    assert data.load("text", "test", str(tmp_path)).documents == ["test.txt"]


def test_a_text_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "test.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match="test.txt is not UTF-8: .*; convert it"):
        data.load("text", "test", str(tmp_path))


def test_rows_of_text_are_documents(tmp_path):
    rows = ["one\ntwo\n", "", None, " \n", "three\n"]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    assert list(data.load("text", "test", str(tmp_path)).documents) == ["one\ntwo\n", "three\n"]


def test_rows_that_are_lines_are_one_document(tmp_path):
    rows = ["", " = Title = \n", "", " First line .\n", " Second line .\n"]
    write(tmp_path / "data" / "test-00000-of-00001.parquet", {"text": rows})
    dataset = data.load("text", "test", str(tmp_path))
    assert dataset.documents == [" = Title = \n First line .\n Second line .\n"]


def test_a_changed_file_is_read_anew(tmp_path):
    path = write(tmp_path / "sst2" / "train.parquet", {"sentence": ["old"], "label": [1]})
    assert data.load("glue/sst2", "train", str(tmp_path)).inputs["text"] == ["old"]
    write(path, {"sentence": ["new"], "label": [0]})
    os.utime(path, (1, 1))
    assert data.load("glue/sst2", "train", str(tmp_path)).inputs["text"] == ["new"]


def test_another_file_of_the_same_time_is_read_anew(tmp_path):
    """Times are as they were where files were copied or unpacked."""
    for name in ("old", "new"):
        path = write(tmp_path / name / "sst2" / "train.parquet", {"sentence": [name], "label": [1]})
        os.utime(path, (1, 1))
    source = tmp_path / "source"
    for name in ("old", "new"):
        source.unlink(missing_ok=True)
        source.symlink_to(tmp_path / name)
        assert data.load("glue/sst2", "train", str(source)).inputs["text"] == [name]
    write(path, {"sentence": ["won"], "label": [1]})
    os.utime(path, (1, 1))
    assert data.load("glue/sst2", "train", str(source)).inputs["text"] == ["won"]


def test_a_local_folder_asks_no_host(tmp_path, monkeypatch):
    """The `datasets` library would report the load, and swallow the error where there is no network."""
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: asked.append(args) or [])
    write(tmp_path / "sst2" / "train.parquet", {"sentence": ["good"], "label": [1]})
    (tmp_path / "cola").mkdir()
    (tmp_path / "cola/train.jsonl").write_text(json.dumps({"sentence": "good", "label": 1}))
    data.load("glue/sst2", "train", str(tmp_path))
    data.load("glue/cola", "train", str(tmp_path))
    assert not asked


def test_loading_prints_nothing(tmp_path, capfd):
    write(tmp_path / "sst2" / "train.parquet", {"sentence": ["good"], "label": [1]})
    shown = datasets.utils.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()
    data.load("glue/sst2", "train", str(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert shown == (datasets.utils.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "label": [0]}, "GLUE SST-2, train has no column sentence; found are text, label"),
        ({"sentence": ["a"]}, "GLUE SST-2, train has no column label; found are sentence"),
        (
            {"sentence": ["a", "b"], "label": [0, 2]},
            "example 1 of GLUE SST-2, train has the label 2 in its column 'label'",
        ),
        ({"sentence": ["a", "b"], "label": [1, -1]}, "example 1 of GLUE SST-2, train has the label -1 in its column"),
        (
            {"sentence": ["a"], "label": ["yes"]},
            "has the label 'yes' in its column 'label'; labels are integers from 0 to 1",
        ),
        ({"sentence": ["a", "b"], "label": [1, None]}, "example 1 of GLUE SST-2, train has the label None in"),
        ({"sentence": ["a"], "label": [True]}, "example 0 of GLUE SST-2, train has the label True in"),
        (
            {"sentence": ["a", None], "label": [1, 1]},
            "example 1 of GLUE SST-2, train has None in its column 'sentence'",
        ),
        (
            {"sentence": [5, 6], "label": [1, 1]},
            "example 0 of GLUE SST-2, train has 5 in its column 'sentence'; it should",
        ),
        ({"sentence": [None], "label": [1]}, "example 0 of GLUE SST-2, train has None in its column 'sentence'"),
        (
            {"sentence": [["a"] * 99], "label": [1]},
            "example 0 of GLUE SST-2, train has ['a', 'a', 'a', 'a', 'a', 'a', ...] in",
        ),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, columns, message):
    write(tmp_path / "sst2" / "train.parquet", columns)
    with pytest.raises(InputError) as refused:
        data.load("glue/sst2", "train", str(tmp_path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_number_among_texts_is_refused(tmp_path):
    (tmp_path / "sst2").mkdir()
    lines = [json.dumps({"sentence": text, "label": 1}) + "\n" for text in ("a", "b", 5)]
    (tmp_path / "sst2" / "train.jsonl").write_text("".join(lines))
    with pytest.raises(
        InputError, match="example 2 of GLUE SST-2, train has 5 in its column 'sentence'; it should be a text"
    ):
        data.load("glue/sst2", "train", str(tmp_path))
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": 5}\n')
    with pytest.raises(InputError, match="the column 'text' of .* holds Json.*, not strings; choose another set"):
        data.load("text", "train", str(tmp_path))


@pytest.mark.parametrize("damage", ["head", "middle", "empty"])
def test_a_damaged_file_is_refused(tmp_path, damage, capfd):
    path = write(tmp_path / "sst2" / "train.parquet", {"sentence": [str(i) for i in range(900)], "label": [1] * 900})
    whole = path.read_bytes()
    path.write_bytes(
        {"head": whole[: len(whole) // 2], "middle": whole[:9] + bytes(999) + whole[1008:], "empty": b""}[damage]
    )
    with pytest.raises(InputError, match="can't read .*train.parquet: .*; get it again") as refused:
        data.load("glue/sst2", "train", str(tmp_path))
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("label", [5.5, None, float("nan"), "good"])
def test_stsb_takes_ratings_from_0_to_5(tmp_path, label):
    labels = [label, label] if isinstance(label, str) else [2.5, label]
    write(tmp_path / "stsb" / "train.parquet", {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": labels})
    with pytest.raises(
        InputError, match=rf"example [01] of GLUE STS-B, train has the label {label!r}; labels are numbers"
    ):
        data.load("glue/stsb", "train", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "split", "source", "message"),
    [
        ("cifar10", "validation", None, "CIFAR-10 has no split 'validation'; choose one of train, test"),
        ("imagenet", "val", None, "choose one of train, test, validation, hidden_test"),
        (
            "glue/mnli",
            "validation",
            None,
            "choose one of train, test, hidden_test, validation_matched, hidden_test_matched, validation_mismatched",
        ),
        ("cbt/CN", "dev", None, "CBT-CN has no split 'dev'; choose one of train, validation, test"),
        ("cifar10", "test", "./nowhere", "no folder './nowhere'; give a folder in the hub's layout, or a hub id"),
        ("text", "test", None, "plain text needs a source; add --data-source"),
        ("glue/ax", "test", None, "unknown dataset 'glue/ax'; known are"),
    ],
)
def test_what_can_not_be_is_refused(name, split, source, message):
    with pytest.raises(InputError) as refused:
        data.load(name, split, source)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("glue/sst2", "it should hold sst2/validation-*.parquet (or .jsonl)"),
        ("imagenet", "it should hold validation-*.parquet, or train/WNID/*.JPEG and val/WNID/*.JPEG"),
        ("text", "it should hold test*.txt, test/**/*.txt or test-*.parquet"),
    ],
)
def test_an_empty_folder_is_refused(tmp_path, name, message):
    with pytest.raises(InputError) as refused:
        data.load(name, "test", str(tmp_path))
    assert message in str(refused.value)


def test_a_folder_with_no_images_is_refused(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(png(RED))
    with pytest.raises(InputError, match="no images in .*val; they should lie in a folder for each class"):
        data.load("imagenet", "test", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "split", "source", "call"),
    [
        ("cifar10", "test", None, ("uoft-cs/cifar10", "plain_text", {"split": "test"})),
        ("cifar100", "train", None, ("uoft-cs/cifar100", "cifar100", {"split": "train"})),
        ("glue/mnli", "validation_mismatched", None, ("nyu-mll/glue", "mnli", {"split": "validation_mismatched"})),
        ("glue/cola", "hidden_test", "me/glue", ("me/glue", "cola", {"split": "test"})),
        ("cbt/NE", "validation", None, ("cam-cst/cbt", "NE", {"split": "validation"})),
        (
            "text",
            "train",
            "Salesforce/wikitext:wikitext-2-v1",
            ("Salesforce/wikitext", "wikitext-2-v1", {"split": "train"}),
        ),
        ("imagenet", "test", "me/imagenet", ("me/imagenet", None, {"split": "validation"})),
        (
            "imagenet",
            "test",
            None,
            (
                "ILSVRC/imagenet-1k",
                None,
                {
                    "split": "validation",
                    "data_files": {"validation": "data/validation-*"},
                    "verification_mode": "no_checks",
                },
            ),
        ),
    ],
)
def test_what_is_asked_of_the_hub(monkeypatch, name, split, source, call):
    asked = []

    def load_dataset(hub_id, config, **kwargs):
        asked.append((hub_id, config, kwargs))
        return datasets.Dataset.from_dict({"other": [1]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match="has no column .*; found are other"):
        data.load(name, split, source)
    assert asked == [call]


def test_a_split_without_examples_is_refused(monkeypatch):
    empty = datasets.Dataset.from_dict({"sentence": [], "label": []}, split=datasets.Split("validation"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: empty)
    with pytest.raises(InputError, match="nyu-mll/glue has no examples in its split validation; choose another"):
        data.load("glue/sst2", "test")


def test_a_hub_that_is_out_of_reach(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as refused:
        data.load("glue/sst2", "test")
    message = str(refused.value)
    assert "'nyu-mll/glue' is no folder here, and the hub did not give its split 'validation': " in message
    assert message.endswith("; give a folder in the hub's layout with --data-source")
    assert "\n" not in message
