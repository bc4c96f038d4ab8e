"""Packages of each registry, made here: the client is real where it reads a folder,
else a script that stands in for it."""

import base64
import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from prism_jax.assets import registries
from prism_jax.assets.registries import DebianPackage, NpmPackage, Sdist, Wheel, sha256_of
from prism_jax.errors import AssetError

ZERO = "0" * 64
"""The digest of no archive."""

FILES = {"data/a.txt": b"alpha", "data/b.bin": bytes(range(256)) * 40}


def tar(path, prefix, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{prefix}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def fake_client(folder, name, script, monkeypatch):
    """A command that goes before the real one of its name."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    (bin_folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")


def local_pip(folder, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def a_wheel(folder, monkeypatch):
    with zipfile.ZipFile(folder / "tiny_data-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in FILES.items():
            wheel.writestr(f"tiny/{name}", content)
        wheel.writestr("tiny_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    local_pip(folder, monkeypatch)
    return Wheel("tiny-data", "1.0"), "tiny"


def an_sdist(folder, monkeypatch):
    code = {"setup.py": b"raise SystemExit('setup.py was run')", "PKG-INFO": b"Name: tiny-data\nVersion: 1.0\n"}
    tar(folder / "tiny_data-1.0.tar.gz", "tiny_data-1.0", {**FILES, **code})
    local_pip(folder, monkeypatch)
    return Sdist("tiny-data", "1.0"), "tiny_data-1.0"


def an_sdist_with_a_backend(folder, monkeypatch):
    backend = b'[build-system]\nrequires = ["setuptools>=999", "nowhere"]\nbuild-backend = "setuptools.build_meta"\n'
    tar(folder / "tiny_data-1.0.tar.gz", "tiny_data-1.0", {**FILES, "pyproject.toml": backend, "setup.py": b"1 / 0"})
    local_pip(folder, monkeypatch)
    return Sdist("tiny-data", "1.0"), "tiny_data-1.0"


def an_npm_package(folder, monkeypatch):
    tar(folder / "tiny-data-1.0.tgz", "package", FILES)
    script = f"""test "$1 $2 $3" = "pack tiny-data@1.0 --ignore-scripts" || exit 1
    for word in "$@"; do
        case $word in --pack-destination=*) cp {folder}/tiny-data-1.0.tgz "${{word#*=}}";; esac
    done"""
    fake_client(folder, "npm", script, monkeypatch)
    return NpmPackage("tiny-data", "1.0"), "package"


def a_debian_package(folder, monkeypatch):
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not here")
    tree = folder / "tree"
    for name, content in FILES.items():
        path = tree / "usr" / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tree / "DEBIAN").mkdir()
    control = "Package: tiny-data\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: tiny\n"
    (tree / "DEBIAN" / "control").write_text(control)
    (tree / "DEBIAN" / "postinst").write_text("#!/bin/sh\nexit 1\n")
    (tree / "DEBIAN" / "postinst").chmod(0o755)
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, folder], check=True, stdout=subprocess.DEVNULL)
    fake_client(
        folder, "apt-get", f'test "$*" = "download tiny-data=1.0" && cp {folder}/tiny-data_1.0_all.deb .', monkeypatch
    )
    return DebianPackage("tiny-data", "1.0"), "usr/share"


MAKERS = (a_wheel, an_sdist, an_sdist_with_a_backend, an_npm_package, a_debian_package)


@pytest.mark.parametrize("make", MAKERS, ids=[make.__name__ for make in MAKERS])
def test_an_archive_is_fetched_and_its_files_are_read(make, tmp_path, monkeypatch):
    package, folder = make(tmp_path, monkeypatch)
    (made,) = (path for path in tmp_path.glob("tiny*data*"))
    (tmp_path / "download").mkdir()
    monkeypatch.chdir(tmp_path)
    archive = package.download(Path("download"), sha256_of(made))  # a cache may be named by a relative path
    assert archive.resolve().parent == tmp_path / "download"
    members = {path: file.read() for path, file in package.members(archive)}
    assert {path: content for path, content in members.items() if "data/" in path} == {
        f"{folder}/{name}": content for name, content in FILES.items()
    }


@pytest.fixture
def serve():
    """A function that serves a folder, or what a handler says, over loopback, and returns the address."""
    servers = []

    def start(handler):
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.parametrize("where", ["folder", "server"])
def test_no_code_of_an_altered_archive_runs(where, serve, tmp_path, monkeypatch):
    marker, place = tmp_path / "marker", tmp_path / "tiny-data"
    place.mkdir()
    code = f"open({str(marker)!r}, 'w').close()".encode()
    build = b'[build-system]\nrequires = []\nbuild-backend = "inside"\nbackend-path = ["."]\n'
    files = {"inside.py": code, "setup.py": code, "pyproject.toml": build, **FILES}
    tar(place / "tiny_data-1.0.tar.gz", "tiny_data-1.0", files)
    if where == "folder":
        local_pip(place, monkeypatch)
    else:
        (place / "index.html").write_text(f'<a href="tiny_data-1.0.tar.gz#sha256={ZERO}">tiny_data-1.0.tar.gz</a>')
        monkeypatch.setenv("PIP_INDEX_URL", serve(functools.partial(Quiet, directory=tmp_path)))
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    (tmp_path / "download").mkdir()
    with pytest.raises(AssetError) as error:
        Sdist("tiny-data", "1.0").download(tmp_path / "download", ZERO)
    results = sha256_of(place / "tiny_data-1.0.tar.gz")
    assert str(error.value).startswith(
        f"tiny-data==1.0 has SHA-256 {results}, not {ZERO}: a broken or altered download;"
    )
    assert "\n" not in str(error.value)
    assert not marker.exists()


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not here")
def test_no_script_of_an_npm_package_runs(serve, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    when = ("preinstall", "install", "postinstall", "prepublish", "prepare", "prepack", "postpack")
    expected = {"name": "tiny-data", "version": "1.0.0", "scripts": dict.fromkeys(when, f"touch {marker}")}
    tar(made := tmp_path / "tiny-data.tgz", "package", {"package.json": json.dumps(expected).encode(), **FILES})
    integrity = base64.b64encode(hashlib.sha512(made.read_bytes()).digest()).decode()

    class Registry(Quiet):
        def do_GET(self):
            dist = {"tarball": f"http://{self.headers['Host']}/tiny.tgz", "integrity": f"sha512-{integrity}"}
            versions = {"1.0.0": expected | {"dist": dist}}
            document = {"name": "tiny-data", "dist-tags": {"latest": "1.0.0"}, "versions": versions}
            body = made.read_bytes() if self.path.endswith(".tgz") else json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    monkeypatch.setenv("npm_config_registry", serve(Registry))
    (tmp_path / "download").mkdir()
    archive = NpmPackage("tiny-data", "1.0.0").download(tmp_path / "download", ZERO)
    assert sha256_of(archive) == sha256_of(made)
    assert not marker.exists()


def test_links_of_an_archive_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name, kind, target in (("p/soft", tarfile.SYMTYPE, "/etc/passwd"), ("p/hard", tarfile.LNKTYPE, "p/soft")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    assert not list(NpmPackage("a", "1").members(tmp_path / "a.tar.gz"))


@pytest.mark.parametrize(
    ("package", "message"),
    [
        (NpmPackage("a", "1"), "a@1 is fetched by npm, which is not here; install npm"),
        (DebianPackage("a", "1"), "a=1 is fetched by apt-get, which is not here; run this on Debian or Ubuntu once"),
    ],
)
def test_a_missing_client_is_named(package, message, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match=message):
        package.download(tmp_path, ZERO)


@pytest.mark.parametrize("package", [Wheel("a", "1"), Sdist("a", "1")])
def test_a_missing_pip_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setattr(registries.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssetError, match="a==1 is fetched by pip, and .* has none; run: .* -m ensurepip"):
        package.download(tmp_path, ZERO)


def test_a_missing_dpkg_deb_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match="a=1 is opened by dpkg-deb, which is not here"):
        list(DebianPackage("a", "1").members(tmp_path / "a.deb"))


NPM_SAYS = """npm error code ECONNREFUSED
npm error syscall connect
npm error errno ECONNREFUSED
npm error FetchError: request to http://127.0.0.1:9/a failed, reason: connect ECONNREFUSED 127.0.0.1:9
npm error     at ClientRequest.emit (node:events:524:28)
npm error A complete log of this run can be found in: /home/me/.npm/_logs/now.log"""


@pytest.mark.parametrize(
    ("client", "package", "printed", "reason"),
    [
        ("npm", NpmPackage("a", "1"), NPM_SAYS, "FetchError: request to .* failed, reason: connect ECONNREFUSED"),
        (
            "npm",
            NpmPackage("a", "1"),
            "npm ERR! code E404\nnpm ERR! 404 Not Found - GET x",
            "fetched: Not Found - GET x",
        ),
        ("npm", NpmPackage("a", "1"), "", "its client said nothing"),
        (
            "apt-get",
            DebianPackage("a", "1"),
            "W: old\nE: Unable to locate package a",
            "fetched: Unable to locate package a",
        ),
        ("apt-get", DebianPackage("a", "1"), "killed", "fetched: killed .*run apt-get update as root"),
    ],
)
def test_a_client_that_fails_is_quoted_in_one_line(client, package, printed, reason, tmp_path, monkeypatch):
    (tmp_path / "printed").write_text(printed)
    fake_client(tmp_path, client, f"cat {tmp_path}/printed >&2; exit 1", monkeypatch)
    with pytest.raises(AssetError, match=f"^{package} could not be fetched: .*is there a network, or an? ") as error:
        package.download(tmp_path, ZERO)
    assert error.match(reason)
    assert "\n" not in str(error.value)


def test_a_client_that_fills_the_disk_says_so(tmp_path, monkeypatch):
    fake_client(tmp_path, "npm", "echo 'npm error code ENOSPC' >&2; exit 1", monkeypatch)
    with pytest.raises(OSError, match="No space left on device"):
        NpmPackage("a", "1").download(tmp_path, ZERO)


def test_a_client_that_brings_nothing_is_told(tmp_path, monkeypatch):
    fake_client(tmp_path, "npm", "exit 0", monkeypatch)
    with pytest.raises(AssetError, match=r"a@1 came as 0 files \*.tgz, not one"):
        NpmPackage("a", "1").download(tmp_path, ZERO)
