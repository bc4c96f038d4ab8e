"""The paper's cost tables, as the command prints them."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
from helpers.command import command
from helpers.tiny import stack_config

import prism_jax as pj
from eval import paper
from prism_jax.errors import RunError
from prism_jax.models.bert import BertConfig, BertModel

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.mark.slow
def test_every_figure_agrees(tmp_path, capsys):
    assert command("eval.paper", "--out", tmp_path) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == sum(map(len, (*paper.TABLES[0].published.values(), *paper.TABLES[1].published.values()))) == 18
    by_name = {(row["table"][:4], row["exchange"], row["name"]): row for row in rows}
    headline = by_name["BERT", "segment_means:1", paper.COMPUTE]
    assert headline["formula"] == pytest.approx(51.24, abs=5e-3) == headline["compiled"]
    assert by_name["ViT-", "segment_means:10", paper.TRAFFIC]["compiled"] == pytest.approx(89.90, abs=5e-3)
    assert "26.58 at P = 2" in capsys.readouterr().out


@pytest.mark.parametrize("off", [0.9, 1.1])
def test_a_figure_that_is_off_fails(off, monkeypatch):
    table = paper.Table(
        "tiny", BertModel(BertConfig(stack_config())), 16, False, {pj.WholeSequence(): {paper.GFLOPS: 1.0}}
    )
    (figure,) = paper.figures_of(table)
    stated = {pj.WholeSequence(): {paper.GFLOPS: figure.compiled * (1 - off * paper.RELATIVE)}}
    monkeypatch.setattr(paper, "TABLES", (replace(table, published=stated),))
    with pytest.raises(RunError, match="1 of 1 figures are off") if off > 1 else nullcontext():
        paper.main([])
    percent = replace(figure, name=paper.TRAFFIC, formula=50.0, compiled=50.0, published=50 + off * paper.POINTS)
    assert percent.agrees == (off < 1)
    assert not replace(percent, formula=51.0).agrees
