"""A user's GGUF file as a source of weights. It is converted once into the cache, where its content names the folder.

A conversion is kept like an asset: it appears whole or not at all, and its digests are compared at every use.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from prism_jax import assets
from prism_jax.assets import gguf_llama
from prism_jax.assets.registries import Members, sha256_of
from prism_jax.errors import InputError

SMALL_FILES = 50_000_000
"""Upper bound of the bytes of config and tokenizer."""


@dataclass(frozen=True)
class LocalFile:
    """A local file in the place of a package. The version is that of its conversion: a change of that converts anew."""

    path: Path
    version: str = "1"

    def __str__(self) -> str:
        return str(self.path)

    def download(self, folder: Path, sha256: str) -> Path:
        return self.path

    def members(self, archive: Path) -> Members:
        """Yields nothing, since the conversion reads the file where it lies."""
        yield from ()


def is_gguf(path: Path) -> bool:
    """Returns whether a file has the name of a GGUF file."""
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def fetch(path: Path) -> Path:
    """Returns the folder in the hub's layout that equals a GGUF file, from the cache or converted.

    Raises:
      InputError: as `gguf_llama.read`, or if the file can't be read.
      AssetError: if the file changes meanwhile, or the disk is full.
    """
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}; give another file") from error
    asset = assets.Asset("gguf", LocalFile(path), sha256, folder="", files=(), size=0, licence="")
    if assets.is_cached(asset):
        return assets.folder_of(asset)
    model = gguf_llama.read(path)
    licence = model.metadata.get("general.license", "of an unknown licence")
    return assets.fetch(replace(asset, size=model.num_bytes + SMALL_FILES, licence=str(licence), convert=model.write))
