"""The manifest in the folder of a cached asset: which files were installed, and their digests."""

from pathlib import Path
from typing import Annotated

import msgspec

from prism_jax.assets.registries import sha256_of

MANIFEST = "asset.json"

Name = Annotated[str, msgspec.Meta(pattern=r"\A[^./\\\0][^/\\\0]*\Z")]
"""Name of a file: not hidden, and not a path."""


class Manifest(msgspec.Struct, frozen=True):
    """Contents of the manifest file in an asset's folder.

    Attributes:
      package: name and version of the source package.
      sha256: digest of the package's archive.
      licence: licence of the files.
      files: the SHA-256 of each file, by name.
    """

    package: str
    sha256: str
    licence: str
    files: Annotated[dict[Name, str], msgspec.Meta(min_length=1)]


def fault(folder: Path, sha256: str) -> str | None:
    """Returns the reason why a cached folder can't be used. None if it holds exactly the files that were installed.

    Args:
      folder: the folder of an asset.
      sha256: digest of the archive that the files must be from.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        if manifest.sha256 != sha256:
            return f"its {MANIFEST} is of another archive"
        present = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {MANIFEST}
        for name in sorted(present ^ set(manifest.files)):
            return f"{name} {'was not installed' if name in present else 'is missing'}"
        for name, digest in manifest.files.items():
            if not (folder / name).is_file() or sha256_of(folder / name) != digest:
                return f"{name} is not as it was installed"
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return f"its {MANIFEST} holds no digests of its files, {error}"
    except OSError as error:
        return f"{Path(error.filename or folder).name} can't be read: {error.strerror}"
    return None
