"""Plots of sweeps, one panel for each run and N. Sizes suit a column of a paper, colours colour-blind readers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.reporting.style import COLOURS, FILLS, MARKERS, legend_below, logarithmic, plain_numbers, plt, save
from eval.reporting.tables import UNITS
from eval.scoring.variants import BASE, CONTROL
from prism_jax.metrics.scores import METRICS

GFLOPS = "GFLOPs of matrix products"

Panels = Mapping[tuple[str, int], dict]
"""Contents of results.json with only the scored records of one N, by name of the run and N."""


def scored(content: dict) -> list[dict]:
    """Returns the records with a finite score."""
    return [row for row in content["rows"] if row.get("score") is not None and np.isfinite(row["score"])]


def score_against_bytes(path: Path, panels: Panels) -> bool:
    """Plots the score against the bytes that a device sends."""
    return score_against(sent, "kB sent per device and example", path, panels, is_logarithmic=True)


def score_against_flops(path: Path, panels: Panels) -> bool:
    """Plots the score against the FLOPs that a device computes."""
    return score_against(computed, f"{GFLOPS} per device and example", path, panels, is_logarithmic=False)


def score_against(
    cost: Callable[[dict], float], label: str, path: Path, panels: Panels, *, is_logarithmic: bool
) -> bool:
    """Plots the score against a cost: a line for each number of parts, with the Pareto front in grey."""
    figure, all_axes = panels_of(panels)
    for ((name, _), content), axes in zip(panels.items(), all_axes, strict=True):
        rows = [row for row in content["rows"] if row["num_parts"] > 1]
        edge = min((cost(row) for row in rows if cost(row)), default=1.0) / 4
        nothing = "" if all(map(cost, rows)) else f" (nothing sent: at {edge:.2g})"
        if is_logarithmic:
            logarithmic(axes)
        one_device_lines(axes, content)
        front = pareto(rows, cost)
        xs = [max(cost(row), edge) for row in front]
        axes.step(
            xs, [row["score"] for row in front], where="post", color="0.85", linewidth=5, zorder=0, label="Pareto front"
        )
        styles = Styles(rows)
        draw_rows(axes, rows, [max(cost(row), edge) for row in rows], styles)
        styles.legend(axes)
        axes.set_xlabel(label + nothing)
        describe(axes, name, content, len(panels) > 1)
    save(figure, path)
    return True


def score_against_rate(path: Path, panels: Panels) -> bool:
    """Plots the score against the compression rate: a line for each number of parts."""
    panels = {
        name: content for name, content in panels.items() if any(row["compression_rate"] for row in content["rows"])
    }
    if not panels:
        return False
    figure, all_axes = panels_of(panels)
    for ((name, _), content), axes in zip(panels.items(), all_axes, strict=True):
        rows = [row for row in content["rows"] if row["compression_rate"]]
        logarithmic(axes)
        one_device_lines(axes, content)
        styles = Styles(rows)
        draw_rows(axes, rows, [row["compression_rate"] for row in rows], styles)
        styles.legend(axes)
        axes.set_xlabel("compression rate, tokens of a part / rows sent")
        describe(axes, name, content, len(panels) > 1)
    save(figure, path)
    return True


def compute_against_parts(path: Path, panels: Panels) -> bool:
    """Plots the FLOPs of a device against the number of parts. The ideal line divides one device's FLOPs evenly."""
    panels = {name: content for name, content in panels.items() if any(row["num_parts"] > 1 for row in content["rows"])}
    if not panels:
        return False
    figure, all_axes = panels_of(panels)
    for ((name, _), content), axes in zip(panels.items(), all_axes, strict=True):
        rows = content["rows"]
        whole = rows[0]["flops_per_device"] / rows[0]["flops_vs_one_device"] / 1e9
        parts = sorted({1, *(row["num_parts"] for row in rows)})
        axes.plot(parts, [whole / num_parts for num_parts in parts], "--", color="black", linewidth=1, label="ideal")
        lines: dict[str, dict[int, float]] = {}
        for row in rows:
            if row["num_parts"] > 1:
                length = f", L = {row['num_segments']}" if row["num_segments"] else ""
                label = row["exchange"].replace("_", " ") + length
                lines.setdefault(label, {1: whole})[row["num_parts"]] = computed(row)
        for i, (label, line) in enumerate(lines.items()):
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            axes.plot(
                list(line), list(line.values()), marker=marker, color=colour, markersize=4, linewidth=0.8, label=label
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(parts, [str(num_parts) for num_parts in parts])
        axes.yaxis.set_major_formatter("{x:.3g}")
        axes.set_xlabel("parts P")
        describe(axes, name, content, len(panels) > 1, f"{GFLOPS} per device and example")
        legend_below(axes)
    save(figure, path)
    return True


@dataclass(frozen=True)
class Plot:
    """A plot of report.md.

    Attributes:
      draw: writes the plot to a path. Returns False if there is nothing to draw.
      title: short description.
      explanation: reading guide for the report.
    """

    draw: Callable[[Path, Panels], bool]
    title: str
    explanation: str


PLOTS = {
    "score_bytes.png": Plot(
        score_against_bytes,
        "score against bytes",
        "The score against the bytes that a device sends for one example: to the left is cheaper. "
        "No record that sends as little beats a record on the grey front. Bars are 95 % intervals; "
        "markers are filled as the legend says for each kind of weights.",
    ),
    "score_flops.png": Plot(
        score_against_flops,
        "score against FLOPs",
        "The score against the matrix products that a device computes for one example: to the left is cheaper. The "
        "grey front joins all numbers of parts, and with more of them a device computes less.",
    ),
    "score_rate.png": Plot(
        score_against_rate,
        "score against compression rate",
        "The score against the compression rate, the tokens of a part over the rows it sends: to the right is cheaper.",
    ),
    "compute_parts.png": Plot(
        compute_against_parts,
        "compute per device",
        "What each device computes, by formula: the dashed line shares one device's work out evenly. "
        "Above it lies what a part "
        "computes for rows of other parts; below it, what PRISM and isolated parts never compute.",
    ),
}
"""Plots of a report, by file name."""


class Styles:
    """Styles of points: a colour for each number of parts, a marker for each exchange and wire."""

    def __init__(self, rows: list[dict]):
        self.parts = sorted({row["num_parts"] for row in rows})
        self.weights = list(dict.fromkeys([BASE, *(row["weights"] for row in rows)]))
        self.kinds = list(dict.fromkeys(self.kind(row) for row in rows))

    def kind(self, row: dict) -> str:
        wire = "" if row["wire"] == "float32" else f", {row['wire']}"
        return row["exchange"].replace("_", " ") + wire

    def of(self, row: dict) -> tuple[int, str, str]:
        """Returns the properties that the points of a line share."""
        return row["num_parts"], row["weights"], self.kind(row)

    def fill(self, kind: str) -> str:
        return FILLS[self.weights.index(kind) % len(FILLS)]

    def colour(self, num_parts: int) -> str:
        return COLOURS[self.parts.index(num_parts) % len(COLOURS)]

    def marker(self, row: dict) -> str:
        return MARKERS[self.kinds.index(self.kind(row)) % len(MARKERS)]

    def shift(self, num_parts: int) -> float:
        """Returns a small horizontal factor that keeps the bars of different numbers of parts apart."""
        return 1.06 ** (self.parts.index(num_parts) - (len(self.parts) - 1) / 2)

    def legend(self, axes: Axes) -> None:
        for num_parts in self.parts:
            axes.plot([], [], color=self.colour(num_parts), label=f"{num_parts} parts")
        for i, kind in enumerate(self.kinds):
            axes.plot([], [], MARKERS[i % len(MARKERS)], color="grey", markersize=4, label=kind)
        for kind in self.weights if len(self.weights) > 1 else ():
            line = "-o" if kind == BASE else "--o"
            axes.plot([], [], line, color="grey", fillstyle=self.fill(kind), markersize=4, label=kind[-16:])
        legend_below(axes)


def draw_rows(axes: Axes, rows: list[dict], xs: list[float], styles: Styles) -> None:
    """Draws the score of each record against its x. A line joins records that agree in everything else."""
    is_logarithmic = axes.get_xscale() == "log"
    for group in dict.fromkeys(map(styles.of, rows)):
        shift = styles.shift(group[0]) if is_logarithmic else 1
        line = [(x * shift, row) for x, row in zip(xs, rows, strict=True) if styles.of(row) == group]
        line.sort(key=lambda pair: pair[0])
        at, scores = zip(*((x, row["score"]) for x, row in line), strict=True)
        dashes, colour = "-" if group[1] == BASE else "--", styles.colour(group[0])
        axes.plot(at, scores, dashes, color=colour, linewidth=0.8, alpha=0.5)
        for x, row in line:
            point(axes, x, row, styles)


def sent(row: dict) -> float:
    """Returns the kB that a device sends for one example."""
    return row["bytes_sent_per_device"] / 1e3


def computed(row: dict) -> float:
    """Returns the GFLOPs of a device for one example, by formula."""
    return row["flops_per_device"] / 1e9


def pareto(rows: list[dict], cost: Callable[[dict], float]) -> list[dict]:
    """Returns the records of the Pareto front, from cheap to dear: no other record has a better score for as little."""
    front: list[dict] = []
    for row in sorted(rows, key=lambda row: (cost(row), -goodness(row))):
        if not front or goodness(row) > goodness(front[-1]):
            front.append(row)
    return front


def goodness(row: dict) -> float:
    """Returns the score of a record, with its sign changed if lower is better."""
    return row["score"] if METRICS[row["metric"]].higher_is_better else -row["score"]


def panels_of(panels: Panels) -> tuple[Figure, list[Axes]]:
    """Returns a figure and its panels, side by side."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 4), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def one_device_lines(axes: Axes, content: dict) -> None:
    """Draws a horizontal line at the score of one device, for each kind of weights."""
    for row in content["rows"]:
        if row["num_parts"] == 1:
            control = row["weights"] == CONTROL
            label = "one device" if row["weights"] == BASE else f"one device, {row['weights'][-16:]}"
            axes.axhline(
                row["score"],
                color="grey" if control else "black",
                linewidth=0.8,
                linestyle=":" if control else "--",
                label=label,
            )


def point(axes: Axes, x: float, row: dict, styles: Styles) -> None:
    """Draws the score of a record with its interval. Base weights have L beside the point."""
    low, high = row["score_ci95"] or (row["score"], row["score"])
    bars = [
        [max(row["score"] - low, 0)],
        [max(high - row["score"], 0)],
    ]  # resampled bounds may both lie on one side of the score
    colour = styles.colour(row["num_parts"])
    fill = styles.fill(row["weights"])
    axes.errorbar(
        x, row["score"], bars, fmt=styles.marker(row), color=colour, fillstyle=fill, markersize=4, elinewidth=0.6
    )
    if row["num_segments"] and row["weights"] == BASE:
        axes.annotate(f"L={row['num_segments']}", (x, row["score"]), (3, 3), textcoords="offset points", fontsize=6)


def describe(axes: Axes, name: str, content: dict, has_several_panels: bool, label: str | None = None) -> None:
    """Sets title and vertical axis: model, data, n. The axis is logarithmic where perplexities lie far apart."""
    first, scores = content["rows"][0], [row["score"] for row in content["rows"]]
    if first["metric"] == "perplexity" and max(scores) > 4 * min(scores):
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
    title = f"{content['model']}\n{content['dataset']}, n = {first['examples']}, N = {first['tokens']}"
    axes.set_title(f"{name}\n{title}" if has_several_panels else title, fontsize=7)
    axes.set_ylabel(label or f"{UNITS[first['metric']]} (bars: 95 % interval)")
    axes.grid(alpha=0.25)
