"""Where an exchange hurts, block by block."""

import json

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.command import command
from helpers.tiny import hidden_states, tiny_batch, tiny_bert

import prism_jax as pj
from eval.reporting import other_plots
from prism_jax import data
from prism_jax.programs import block_outputs

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def test_the_output_of_each_block():
    """The last one's is the model's, and that of a block is the model's if the stack ends there."""
    model, params = tiny_bert()
    batch, run_on = tiny_batch(12, padded=False), pj.on_mesh(3)
    of_blocks = jax.jit(lambda params, parts: block_outputs(model, params, parts, pj.SegmentMeans(2), run_on))
    outputs = of_blocks(run_on.replicate(params), run_on.split(batch))
    assert len(outputs) == model.config.stack.num_layers
    assert_close(np.asarray(outputs[-1]), hidden_states(model, params, batch, pj.SegmentMeans(2), run_on))
    assert np.abs(np.asarray(outputs[0]) - np.asarray(outputs[-1])).max() > 0.1


def test_the_command(toy_config, trained, tmp_path, capsys):
    flags = ["--checkpoint", trained, "--exchange", "segment_means:1,all_gather", "--num-parts", "3", "--out", tmp_path]
    assert command("eval.blocks", toy_config, *flags) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    first, second, everything = content["rows"]
    # Only the first block is compressed: alone or with all, it is the same, and the second one alone is exact.
    assert first["score"] == everything["score"]
    assert second["difference_to_one_device"] == 0
    assert first["relative_error"] > 0.01
    assert 0 < first["cosine_similarity"] < 1 - 1e-4
    assert (tmp_path / "blocks.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("\nall ") == 1
    exact = [*flags[:3], "all_gather", *flags[4:]]
    assert command("eval.blocks", toy_config, *exact) == 0
    for row in json.loads((tmp_path / "results.json").read_text())["rows"][:2]:
        assert row["relative_error"] < 1e-5
        assert row["cosine_similarity"] == pytest.approx(1, abs=1e-6)
    content["rows"][0] |= {"difference_to_one_device": None, "difference_ci95": None}  # of a correlation of equal texts
    other_plots.blocks(tmp_path / "undefined.png", content)
    assert (tmp_path / "undefined.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_with_extra_rows_is_refused_before_anything_slow(toy_config, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", None)
    own = tmp_path / "own.py"
    own.write_text(f"""
from dataclasses import replace

from prism_jax.experiments import recipe as configs
from prism_jax.models.bert import BertWithClassTokens

config = replace(configs.load({toy_config!r}), model=BertWithClassTokens)
""")
    flags = ["--checkpoint", trained, "--exchange", "segment_means:1", "--num-parts", "3", "--out", tmp_path]
    assert command("eval.blocks", own, *flags) == 2
    assert "a block of BertWithClassTokens gives more rows than tokens" in capsys.readouterr().err


def test_an_exchange_that_reads_earlier_rows_is_refused(toy_config, capsys):
    assert command("eval.blocks", toy_config, "--exchange", "displaced:segment_means:1", "--num-parts", "3") == 2
    assert "displaced:segment_means:1 reads rows of earlier blocks" in capsys.readouterr().err
