"""Plots of sweeps."""

import json

import pytest
from helpers.paths import ROOT

from eval.reporting import sweep_plots, sweep_points
from eval.reporting.style import plt


@pytest.mark.parametrize("kilobytes", [2.31, 3.08, 7.529411764705881, 48.384])
def test_a_single_place_on_a_logarithmic_axis_has_room_on_both_sides(kilobytes):
    """Matplotlib would warn of limits that differ by rounding alone, with some places and not with others."""
    content = json.loads((ROOT / "docs" / "results" / "newsgroups" / "main" / "results.json").read_text())
    rows = [row for row in content["rows"] if row["setting"] == "segment_means:4" and row["num_parts"] == 2]
    content["rows"] = [row | {"bytes_sent_per_device": 1e3 * kilobytes} for row in rows]
    figure, (axes,) = sweep_plots.panels_of({("one", 128): content})
    cost = sweep_points.PLOTS["score_bytes"].cost
    assert cost is not None
    sweep_plots.score_against(cost, axes, content)
    assert axes.get_xlim() == pytest.approx((kilobytes / 2, 2 * kilobytes))
    plt.close(figure)
