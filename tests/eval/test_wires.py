"""The benchmark of wire formats."""

import json

import numpy as np
import pytest
from helpers.command import command


@pytest.mark.slow
def test_the_share_of_a_block_is_that_of_the_times(tmp_path, capsys):
    flags = ["--num-tokens", 8, "--num-parts", 2, "--wires", "int4", "float16", "--rounds", 3, "--out", tmp_path]
    assert command("eval.wires", *flags) == 0
    records = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(record["wire"], record["row_bytes"]) for record in records] == [
        ("int4", 12 * (64 // 2 + 4)),
        ("float16", 1536),
    ]
    for record in records:
        low, high = record["share_of_block_p10_p90"]
        assert 0 < low <= record["share_of_block"] <= high
        assert record["block_seconds"] > 4 * 12 * 768**2 * 2 / 1e12  # no core is so fast: the program was waited for
    assert np.array_equal([record["block_seconds"] for record in records], [records[0]["block_seconds"]] * 2)
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["int4", "2", "432"]


def test_what_cannot_be_timed_is_refused(capsys):
    assert command("eval.wires", "--wires", "int5") == 2
    assert "unknown wire format 'int5'; known are float32" in capsys.readouterr().err
    assert command("eval.wires", "--num-tokens", 3, "--num-parts", 4) == 2
    assert "4 parts asked for, but the sequence has 3 tokens" in capsys.readouterr().err
    for flag in ("--wires", "--num-parts"):
        assert command("eval.wires", flag) == 2
        assert "one or more" in capsys.readouterr().err
