"""Plots of sweeps as PNG files, one panel for each run and N. Sizes suit a column of a paper, colours colour-blind
readers."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.reporting import sweep_points
from eval.reporting.style import COLOURS, MARKERS, POINT, legend_below, logarithmic, plain_numbers, plt, save
from eval.reporting.sweep_points import CostAxis, Panels, Plot, Styles
from eval.scoring.variants import BASE, CONTROL


def draw(plot: Plot, path: Path, panels: Panels) -> bool:
    """Writes a plot. Returns False if there is nothing to draw."""
    panels = plot.of(panels)
    if not panels:
        return False
    figure, all_axes = panels_of(panels)
    for ((name, _), content), axes in zip(panels.items(), all_axes, strict=True):
        if plot.cost:
            score_against(plot.cost, axes, content)
        else:
            compute_against_parts(axes, content)
        axes.set_title("\n".join(sweep_points.title(name, content, len(panels) > 1)), fontsize=7)
        axes.grid(alpha=0.25)
        legend_below(axes)
    save(figure, path)
    return True


def score_against(cost: CostAxis, axes: Axes, content: dict) -> None:
    """Draws the score against a cost: a line for each number of parts, with the Pareto front in grey."""
    rows = cost.rows(content)
    at, label = cost.axis(rows)
    xs = list(map(at, rows))
    if cost.is_logarithmic:
        logarithmic(axes)
        if len(set(xs)) == 1:
            axes.set_xlim(xs[0] / 2, 2 * xs[0])  # before anything is drawn: margins of a single place are 0
    one_device_lines(axes, content)
    if cost.has_front:
        front = sweep_points.pareto(rows, at)
        places, scores = [at(row) for row in front], [row["score"] for row in front]
        axes.step(places, scores, where="post", color="0.85", linewidth=5, zorder=0, label="Pareto front")
    styles = Styles(rows)
    draw_rows(axes, rows, xs, styles)
    legend(axes, styles)
    axes.set_xlabel(label)
    axes.set_ylabel(sweep_points.score_label(content))
    if sweep_points.is_spread(content):
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)


def compute_against_parts(axes: Axes, content: dict) -> None:
    """Draws the FLOPs of a device against the number of parts. The ideal line divides one device's FLOPs evenly."""
    shares = sweep_points.shares(content)
    parts = list(shares.ideal)
    axes.plot(parts, list(shares.ideal.values()), "--", color="black", linewidth=1, label="ideal")
    for i, (label, line) in enumerate(shares.lines.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.plot(
            list(line), list(line.values()), marker=marker, color=colour, markersize=4, linewidth=0.8, label=label
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(parts, [str(num_parts) for num_parts in parts])
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.set_xlabel(sweep_points.PARTS)
    axes.set_ylabel(sweep_points.SHARE)


def legend(axes: Axes, styles: Styles) -> None:
    for num_parts in styles.parts:
        axes.plot([], [], color=styles.colour(num_parts), label=f"{num_parts} parts")
    for i, kind in enumerate(styles.kinds):
        axes.plot([], [], MARKERS[i % len(MARKERS)], color="grey", label=kind, **POINT)
    for kind in styles.weights if len(styles.weights) > 1 else ():
        line = "-o" if kind == BASE else "--o"
        axes.plot([], [], line, color="grey", fillstyle=styles.fill(kind), label=kind[-16:], **POINT)


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


def panels_of(panels: Panels) -> tuple[Figure, list[Axes]]:
    """Returns a figure and its panels, side by side."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 4), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def one_device_lines(axes: Axes, content: dict) -> None:
    """Draws a horizontal line at the score of one device, for each kind of weights."""
    for row, label in sweep_points.one_device(content):
        colour, line = ("grey", ":") if row["weights"] == CONTROL else ("black", "--")
        axes.axhline(row["score"], color=colour, linewidth=0.8, linestyle=line, label=label)


def point(axes: Axes, x: float, row: dict, styles: Styles) -> None:
    """Draws the score of a record with its interval. Base weights have L beside the point."""
    low, high = row["score_ci95"] or (row["score"], row["score"])
    bars = [
        [max(row["score"] - low, 0)],
        [max(high - row["score"], 0)],
    ]  # resampled bounds may both lie on one side of the score
    colour = styles.colour(row["num_parts"])
    fill = styles.fill(row["weights"])
    axes.errorbar(x, row["score"], bars, fmt=styles.marker(row), color=colour, fillstyle=fill, elinewidth=0.6, **POINT)
    if row["num_segments"] and row["weights"] == BASE:
        axes.annotate(f"L={row['num_segments']}", (x, row["score"]), (3, 3), textcoords="offset points", fontsize=6)
