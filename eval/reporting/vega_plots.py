"""Plots of sweeps as charts of Vega-Lite, which show all cells of a record's line in the table while a pointer is over
its point."""

import math
import textwrap
from typing import Any

from eval.reporting import sweep_points, tables
from eval.reporting.style import COLOURS
from eval.reporting.sweep_points import CostAxis, Panels, Plot, Styles
from eval.scoring.variants import BASE, CONTROL

TEXT = "currentColor"
"""The page's colour of text, light or dark."""

SHAPES = (
    *("circle", "triangle-down", "square", "diamond", "triangle-up", "cross", "triangle-left", "triangle-right"),
    "M0,-1L0.95,-0.31L0.59,0.81L-0.59,0.81L-0.95,-0.31Z",  # a pentagon, and a hexagon
    "M1,0L0.5,0.87L-0.5,0.87L-1,0L-0.5,-0.87L0.5,-0.87Z",
)
POINT = {"type": "point", "size": 70, "strokeWidth": 1}
"""Mark of a point. Its edge is thin, so that all `SHAPES` show whether they are filled."""

FILLS = (1.0, 0.0, 0.5, 0.25, 0.75)
"""Opacity of a point's fill, by kind of weights."""

GREY = "rgba(128, 128, 128, {})"

SOLID, DASHED, DOTTED = [1, 0], [4, 3], [1, 3]
"""Lengths of dashes and gaps."""

LINES = {"symbolType": "stroke", "symbolStrokeWidth": 3, "symbolOpacity": 1}
"""Symbols of a legend of colours."""

LINE_CHARACTERS = 44
"""Characters of a line of text that fit into the width of a phone."""

CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "axis": {
        **dict.fromkeys(("domainColor", "tickColor", "labelColor", "titleColor", "gridColor"), TEXT),
        "gridOpacity": 0.15,
    },
    "legend": {
        **dict.fromkeys(("labelColor", "titleColor", "symbolStrokeColor"), TEXT),
        **{"orient": "bottom", "direction": "vertical", "columns": 1, "labelLimit": 300},
        "layout": {"bottom": {"direction": "vertical", "anchor": "start"}},
    },
    "title": {"color": TEXT, "anchor": "start", "fontSize": 12, "fontWeight": "normal"},
    "text": {"color": TEXT},
    "rule": {"color": TEXT},
    "view": {"stroke": None},
}


def charts(plot: Plot, panels: Panels) -> list[dict[str, Any]]:
    """Returns a chart for each panel that has something to draw."""
    specs = []
    for (name, _), content in plot.of(panels).items():
        layers = score_against(plot.cost, content) if plot.cost else compute_against_parts(content)
        specs.append(
            {
                "config": CONFIG,
                "title": sweep_points.title(name, content, len(panels) > 1),
                "width": "container",
                "height": 340,
                "autosize": {"type": "fit-x", "contains": "padding"},
                "layer": layers,
                "resolve": {"scale": {"fill": "independent"}, "legend": {"fill": "independent"}},
            }
        )
    return specs


def score_against(cost: CostAxis, content: dict) -> list[dict[str, Any]]:
    """Returns layers with the score against a cost: a line for each number of parts, with the Pareto front in grey."""
    rows = cost.rows(content)
    at, label = cost.axis(rows)
    styles, columns = Styles(rows), tables.columns(content["rows"], content["rows"][0]["metric"])
    shift = styles.shift if cost.is_logarithmic else lambda num_parts: 1.0
    x_scale = {"type": "log", "nice": False, "padding": 16} if cost.is_logarithmic else {"zero": False, "padding": 16}
    x = quantity("x", label, x_scale)
    y = quantity("score", sweep_points.score_label(content), y_scale(content))
    points = [
        values(row, columns)
        | {"x": at(row) * shift(row["num_parts"]), "colour": on_page(styles.colour(row["num_parts"]))}
        | {"fill": FILLS[styles.weights.index(row["weights"]) % len(FILLS)]}
        for row in rows
    ]
    colours = [on_page(styles.colour(num_parts)) for num_parts in styles.parts]
    colour = nominal("parts", [f"{num_parts} parts" for num_parts in styles.parts], colours) | {"legend": LINES}
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(styles.kinds))]
    shape = nominal("kind", styles.kinds, shapes, "exchange") | {"legend": {"symbolFillColor": "grey"}}
    here = {"x": x, "y": y, "color": colour}
    dashes = {"condition": {"test": f"datum.weights === '{BASE}'", "value": SOLID}, "value": DASHED}
    layers = [layer for row, name in sweep_points.one_device(content) for layer in one_device(row, name, y, columns)]
    if cost.has_front:
        front = [{"x": at(row), "score": row["score"]} for row in sweep_points.pareto(rows, at)]
        mark = {"type": "line", "interpolate": "step-after", "strokeWidth": 6, "color": TEXT, "opacity": 0.15}
        layers.append({"data": {"values": front}, "mark": mark, "encoding": {"x": x, "y": y}})
    by_group = {"strokeDash": dashes, "detail": [{"field": "kind"}, {"field": "weights"}]}
    filled = {
        "fill": {"field": "colour", "type": "nominal", "scale": None, "legend": None},
        "fillOpacity": {"field": "fill", "type": "quantitative", "scale": None, "legend": None},
    }
    of_points = [
        {"mark": {"type": "line", "opacity": 0.5, "strokeWidth": 1}, "encoding": here | by_group},
        {"mark": "rule", "encoding": here | {"y": y | {"field": "low"}, "y2": {"field": "high"}}},
        {
            "mark": {"type": "text", "align": "left", "dx": 6, "dy": -6, "fontSize": 9},
            "encoding": {"x": x, "y": y, "text": {"field": "L"}},
        },
        {
            "mark": POINT,
            "encoding": here
            | filled
            | {"shape": shape, "tooltip": tooltip(columns), "description": {"field": "words", "type": "nominal"}},
        },
    ]
    layers.append({"data": {"values": points}, "layer": of_points})
    if len(styles.weights) > 1:
        greys = [GREY.format(FILLS[i % len(FILLS)]) for i in range(len(styles.weights))]
        only_legend = {"fill": nominal("weights", styles.weights, greys)}
        layers.append({"data": {"values": []}, "mark": "point", "encoding": only_legend})
    return layers


def one_device(row: dict, name: str, y: dict[str, Any], columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns a horizontal line at the score of one device, and its name above it."""
    data = {"values": [values(row, columns)]}
    dashes = DOTTED if row["weights"] == CONTROL else DASHED
    line = {"y": y, "tooltip": tooltip(columns)}
    above = {"y": y, "x": {"value": "width"}, "text": {"value": name}}
    return [
        {"data": data, "mark": {"type": "rule", "strokeDash": dashes}, "encoding": line},
        {"data": data, "mark": {"type": "text", "align": "right", "dy": -7, "fontSize": 10}, "encoding": above},
    ]


def compute_against_parts(content: dict) -> list[dict[str, Any]]:
    """Returns layers with the FLOPs of a device against the number of parts."""
    shares = sweep_points.shares(content)
    parts, names = list(shares.ideal), list(shares.lines)
    by_two = {"type": "log", "base": 2, "nice": False, "padding": 16}
    x = quantity("parts", sweep_points.PARTS, by_two) | {"axis": {"values": parts, "format": "d"}}
    y = quantity("GFLOPs", sweep_points.SHARE, by_two)
    least, most = (
        pick([pick(line.values()) for line in (shares.ideal, *shares.lines.values())]) for pick in (min, max)
    )
    y["axis"]["values"] = [2.0**power for power in range(math.floor(math.log2(least)), math.ceil(math.log2(most)) + 1)]
    ideal = [{"parts": n, "GFLOPs": value, "exchange": "ideal"} for n, value in shares.ideal.items()]
    of_lines = [
        {"parts": n, "GFLOPs": value, "exchange": name}
        for name, line in shares.lines.items()
        for n, value in line.items()
    ]
    colour = nominal("exchange", names, [on_page(COLOURS[i % len(COLOURS)]) for i in range(len(names))])
    shape = nominal("exchange", names, [SHAPES[i % len(SHAPES)] for i in range(len(names))])
    shown = [{"field": "exchange"}, {"field": "parts"}, {"field": "GFLOPs", "format": ".3f"}]
    here = {"x": x, "y": y, "color": colour}
    return [
        {
            "data": {"values": ideal},
            "mark": {"type": "line", "strokeDash": DASHED, "strokeWidth": 1, "color": TEXT},
            "encoding": {"x": x, "y": y, "tooltip": shown},
        },
        {
            "data": {"values": of_lines},
            "layer": [
                {"mark": {"type": "line", "strokeWidth": 1}, "encoding": here},
                {
                    "mark": POINT | {"filled": True, "opacity": 1},
                    "encoding": here | {"shape": shape, "tooltip": shown},
                },
            ],
        },
    ]


def values(row: dict, columns: tuple[str, ...]) -> dict[str, Any]:
    """Returns what a chart knows of a record: its score, its groups, and the cells of its line in the table."""
    low, high = row["score_ci95"] or (row["score"], row["score"])
    cells = tables.cells(row, columns)
    return {
        "score": row["score"],
        "low": min(low, row["score"]),  # resampled bounds may both lie on one side of the score
        "high": max(high, row["score"]),
        "parts": f"{row['num_parts']} parts",
        "kind": sweep_points.kind_of(row),
        "weights": row["weights"],
        "L": f"L={row['num_segments']}" if row["num_segments"] and row["weights"] == BASE else "",
        "words": "; ".join(f"{column}: {cell}" for column, cell in zip(columns, cells, strict=True)),
        **{f"cell_{i}": cell for i, cell in enumerate(cells)},
    }


def tooltip(columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Returns the cells to show for a record, each with the title of its column."""
    return [{"field": f"cell_{i}", "title": column, "type": "nominal"} for i, column in enumerate(columns)]


def y_scale(content: dict) -> dict[str, Any]:
    return {"type": "log", "nice": False, "padding": 8} if sweep_points.is_spread(content) else {"zero": False}


def quantity(field: str, title: str, scale: dict[str, Any]) -> dict[str, Any]:
    axis = {"format": "~g", "labelOverlap": "greedy"}
    lines = textwrap.wrap(title, LINE_CHARACTERS)
    return {"field": field, "type": "quantitative", "title": lines, "scale": scale, "axis": axis}


def nominal(field: str, domain: list[str], values: list[Any], title: str | None = None) -> dict[str, Any]:
    return {"field": field, "type": "nominal", "title": title or field, "scale": {"domain": domain, "range": values}}


def on_page(colour: str) -> str:
    """Returns a colour as it is, but the page's own in place of black."""
    return TEXT if colour == "#000000" else colour
