"""The notebooks run, and print the numbers that are stored with them."""

import copy
import re
import sys
import types

import nbformat
import pytest
from helpers.paths import ROOT
from helpers.process import environment
from helpers.real_assets import real
from nbclient import NotebookClient

from prism_jax import assets
from prism_jax.data.packaged.texts import SNIPPETS

pytestmark = pytest.mark.usefixtures("quick_to_compile")

NOTEBOOKS = {
    "tour": (assets.MINILM, SNIPPETS),
    "finetuning": (assets.MINILM, SNIPPETS),
    "generation": (assets.SMOLLM2,),
}
"""The assets that each of them reads."""

TOLERANCE = 0.01
"""Largest difference of a printed decimal number: rounding differs between machines, and grows in training."""


def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "docs" / "notebooks" / f"{name}.ipynb", as_version=4)


def decimals(cell) -> list[float]:
    """The decimal numbers that a cell prints."""
    printed = "".join(output.get("text", "") for output in cell.get("outputs", []) if output.get("name") == "stdout")
    return [float(number) for number in re.findall(r"\d+[.]\d+", printed)]


def test_every_notebook_is_known():
    assert sorted(path.stem for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")) == sorted(NOTEBOOKS)


@pytest.mark.parity("mkdocs", "nbconvert")
@pytest.mark.parametrize("end", ["", "/", ".git", ".git/"])
def test_the_site_leads_to_colab_whatever_the_repository_s_address_ends_in(end, monkeypatch):
    from mkdocs.config.base import load_config
    from mkdocs.structure.files import get_files

    monkeypatch.setenv("REPO_URL", f"https://github.com/owner/name{end}")
    config = load_config(str(ROOT / "mkdocs.yml"))
    config = config.plugins.on_config(config)
    files = config.plugins.on_files(get_files(config), config=config)
    page = files.get_file_from_path("docs/notebooks/tour.md").content_string
    assert "/github/owner/name/blob/main/docs/notebooks/tour.ipynb" in page


@pytest.mark.parity("mkdocs", "nbconvert")
@pytest.mark.parametrize("path", ["", "owner", "owner/", "/name", "owner/name/tree/main", "owner/name.git/wiki"])
def test_a_github_address_of_no_repository_is_refused(path, monkeypatch):
    from mkdocs.config.base import load_config
    from mkdocs.exceptions import PluginError

    monkeypatch.setenv("REPO_URL", f"https://github.com/{path}")
    config = load_config(str(ROOT / "mkdocs.yml"))
    with pytest.raises(PluginError, match="REPO_URL is 'https://github.com.*; give https://github.com/OWNER/NAME"):
        config.plugins.on_config(config)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_in_colab_the_first_cell_installs_what_was_opened(name, monkeypatch):
    """The installation itself is left out: its argument is read."""
    cell = next(cell for cell in notebook(name).cells if cell.cell_type == "code")
    code, count = re.subn("%pip install --quiet (.*)", r"argument = f\1", cell.source)
    assert count == 1

    def requirement(path: str) -> str:
        answer = types.SimpleNamespace(json=lambda: [{"path": path}])
        monkeypatch.setattr("requests.get", lambda address: answer)
        exec(code, names := {})
        return names["argument"]

    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    assert re.fullmatch(r"prism_jax(\[gguf\])? @ file:///.*", requirement(""))
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    opened = "fileId=https%3A%2F%2Fgithub.com%2Fsomeone%2Fname%2Fblob%2Fmain%2Fdocs%2Fnotebooks%2Ftour.ipynb"
    assert requirement(opened).endswith(" @ git+https://github.com/someone/name@main")
    with pytest.raises(AssertionError, match="a copy: first run %pip install"):
        requirement("fileId=1AbCdEf")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_prints_what_is_stored(name, monkeypatch):
    for asset in NOTEBOOKS[name]:
        real(asset)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    stored = notebook(name)
    fresh = copy.deepcopy(stored)
    folder = ROOT / "docs" / "notebooks"
    NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    pairs = [(decimals(before), decimals(after)) for before, after in zip(stored.cells, fresh.cells, strict=True)]
    assert sum(len(before) for before, _ in pairs) >= 2
    for before, after in pairs:
        assert after == pytest.approx(before, abs=TOLERANCE)
