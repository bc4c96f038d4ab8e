"""Plots of sweeps."""

import io
import json
from typing import Any

import numpy as np
import pytest
import vl_convert
from helpers.paths import ROOT
from PIL import Image

from eval.reporting import sweep_plots, sweep_points, vega_plots
from eval.reporting.style import MARKERS, plt


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


def darkness(picture: Any) -> float:
    """How much darker than white paper a picture is."""
    return float((255 - np.asarray(picture)[..., :3].mean(axis=2)).sum())


def ink(row: dict, styles: sweep_points.Styles) -> float:
    """How much darker the point of a record makes a panel without axes."""
    figure, axes = plt.subplots(figsize=(1, 1), dpi=150)
    axes.axis("off")
    sweep_plots.point(axes, 0, row, styles)
    figure.canvas.draw()
    dark = darkness(figure.canvas.buffer_rgba())
    plt.close(figure)
    return dark


def test_every_exchange_has_a_marker_that_shows_whether_it_is_filled():
    record = {"num_parts": 2, "wire": "float32", "score": 50.0, "score_ci95": None, "num_segments": None}
    rows = [
        record | {"exchange": f"number {i}", "weights": weights}
        for i in range(len(MARKERS))
        for weights in ("base", "tuned")
    ]
    styles = sweep_points.Styles(rows)
    shares = {
        styles.marker(base): ink(tuned, styles) / ink(base, styles)
        for base, tuned in zip(rows[::2], rows[1::2], strict=True)
    }
    assert list(shares) == list(MARKERS)
    assert {marker: share for marker, share in shares.items() if share > 0.6} == {}


@pytest.mark.parametrize("shape", vega_plots.SHAPES)
def test_every_shape_of_a_page_s_charts_shows_whether_it_is_filled(shape):
    def drawn(fill: float) -> float:
        colours = {"color": vega_plots.COLOURS[0], "fill": vega_plots.COLOURS[0], "fillOpacity": fill}
        mark = vega_plots.POINT | colours | {"shape": shape}
        chart = {"data": {"values": [{}]}, "mark": mark, "background": "white", "view": {"stroke": None}}
        return darkness(Image.open(io.BytesIO(vl_convert.vegalite_to_png(chart, scale=2))))

    assert 0 < drawn(0.0) < 0.6 * drawn(1.0)
