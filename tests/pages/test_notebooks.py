"""The notebooks run, and print the numbers that are stored with them."""

import copy
import re

import nbformat
import pytest
from helpers.paths import ROOT
from helpers.real_assets import real
from nbclient import NotebookClient

from prism_jax import assets
from prism_jax.data.packaged.texts import SNIPPETS

NOTEBOOKS = {
    "tour": (assets.MINILM, SNIPPETS),
    "finetuning": (assets.MINILM, SNIPPETS),
    "generation": (assets.SMOLLM2,),
}
"""The assets that each of them reads."""

TOLERANCE = 0.01
"""Largest difference of a printed decimal number: rounding differs between machines, and grows in training."""


def decimals(cell) -> list[float]:
    """The decimal numbers that a cell prints."""
    printed = "".join(output.get("text", "") for output in cell.get("outputs", []) if output.get("name") == "stdout")
    return [float(number) for number in re.findall(r"\d+[.]\d+", printed)]


def test_every_notebook_is_known():
    assert sorted(path.stem for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")) == sorted(NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_prints_what_is_stored(name, monkeypatch):
    for asset in NOTEBOOKS[name]:
        real(asset)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiles in half the time
    path = ROOT / "docs" / "notebooks" / f"{name}.ipynb"
    stored = nbformat.read(path, as_version=4)
    fresh = copy.deepcopy(stored)
    NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    pairs = [(decimals(before), decimals(after)) for before, after in zip(stored.cells, fresh.cells, strict=True)]
    assert sum(len(before) for before, _ in pairs) >= 2
    for before, after in pairs:
        assert after == pytest.approx(before, abs=TOLERANCE)
