"""Figures of `eval.blocks`, `eval.scale` and `eval.latency`, in the style of a sweep's plots."""

from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any

from eval.reporting.style import COLOURS, MARKERS, legend_below, plt, save
from eval.reporting.tables import UNITS

CHARACTERS_PER_INCH = 20
"""Number of a legend's characters that fit into an inch."""


def blocks(path: Path, content: dict) -> None:
    """Draws the figure of `eval.blocks`: the error of each block's output, and the loss from compressing only this
    block."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    *records, everything = content["rows"]
    index = [row["block"] for row in records]
    left.plot(
        index, [row["relative_error"] for row in records], "o-", color=COLOURS[0], markersize=4, label="relative error"
    )
    left.plot(
        index,
        [1 - row["cosine_similarity"] for row in records],
        "v--",
        color=COLOURS[1],
        markersize=4,
        label="1 - cosine similarity",
    )
    left.set_ylabel("departure from one device's output")
    left.set_ylim(bottom=0)
    left.legend(fontsize=7)
    for x, row, colour in [
        *((row["block"], row, COLOURS[0]) for row in records),
        (len(records), everything, COLOURS[4]),
    ]:
        if (difference := row["difference_to_one_device"]) is None:
            continue
        low, high = row["difference_ci95"] or (difference, difference)
        bars = [[difference - low], [high - difference]]
        right.errorbar(x, difference, bars, fmt="o", color=colour, markersize=4, elinewidth=0.8)
    right.axhline(0, color="black", linewidth=0.8, linestyle="--")
    right.set_xticks([*index, len(records)], [*map(str, index), "all"])
    right.set_ylabel(f"{UNITS[everything['metric']]} less one device's (bars: 95 % interval)")
    for axes, title in (
        (left, "output after each block, all compressed"),
        (right, "score with this block alone compressed"),
    ):
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("block")
        axes.grid(alpha=0.25)
    examples = everything["examples"]
    figure.suptitle(f"{content['model']}, {content['setting']} parts, {content['dataset']}, n = {examples}", fontsize=8)
    save(figure, path)


def scale(path: Path, rows: list[dict], exponents: dict[str, dict[str, float]]) -> None:
    """Draws the figure of `eval.scale`: time and activations of one part against N, with the fitted powers."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    figures = (
        ("seconds", 1.0, "seconds"),
        ("memory_activations_bytes_compiled", 2.0**20, "MiB of activations (compiler)"),
    )
    for axes, (name, unit, label) in zip(panels, figures, strict=True):
        for i, exchange in enumerate(dict.fromkeys(row["exchange"] for row in rows)):
            records = sorted((row for row in rows if row["exchange"] == exchange), key=lambda row: row["tokens"])
            power = f", N^{exponents[exchange][name]:.2f}" if exchange in exponents else ""
            text = f"{exchange.replace('_', ' ')} on {records[0]['num_parts']}{power}"
            at, values = [row["tokens"] for row in records], [row[name] / unit for row in records]
            marker, colour = MARKERS[i % len(MARKERS)], COLOURS[i % len(COLOURS)]
            axes.plot(at, values, marker=marker, color=colour, markersize=4, linewidth=0.8, label=text)
        lengths = sorted({row["tokens"] for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{n:g}" for n in lengths], rotation=45)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("tokens N")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        legend_below(axes, drop=0.25)
    figure.suptitle(
        f"one part alone on one core, {rows[0]['layers']} blocks of BERT-base's size, batch of 1", fontsize=8
    )
    save(figure, path)


def latency(path: Path, content: dict) -> None:
    """Draws the figure of `eval.latency`: one device's time divided by that of each exchange, against the rate, at the
    shortest round-trip time, and against the round-trip time, at the middle rate.

    Each N and B has a line of panels. A panel is left out if there is only one rate, or one round-trip time. The dashed
    line is one device; a star marks where an exchange crosses it.
    """
    shaped = content["rows"]
    settings = list(dict.fromkeys(row["setting"] for row in shaped if row["num_parts"] > 1))
    groups = sorted({(row["tokens"], row["batch_size"]) for row in shaped})
    rates, rtts = (sorted({row[name] for row in shaped}) for name in ("rate_bits_per_second", "rtt_ms"))
    middle = rates[len(rates) // 2]
    against = [
        ("rate_bits_per_second", 1e6, "link rate (Mbit/s)", ("rtt_ms", rtts[0]), f"rtt {rtts[0]:g} ms"),
        ("rtt_ms", 1, "round-trip time (ms)", ("rate_bits_per_second", middle), f"{middle / 1e6:g} Mbit/s"),
    ]
    against = [axis for axis, values in zip(against, (rates, rtts), strict=True) if len(values) > 1] or against[:1]
    size = (0.5 + 3.75 * max(len(against), 1.3), 1.2 + 2.8 * len(groups) + 0.05 * len(settings))
    figure, all_panels = plt.subplots(len(groups), len(against), figsize=size, layout="constrained", squeeze=False)
    for panels, (num_tokens, batch_size) in zip(all_panels, groups, strict=True):
        group = [row for row in shaped if (row["tokens"], row["batch_size"]) == (num_tokens, batch_size)]
        for axes, (name, unit, label, (other, value), at) in zip(panels, against, strict=True):
            panel(axes, [row for row in group if row[other] == value], settings, name, unit)
            axes.set_xlabel(label)
            axes.set_title(f"N = {num_tokens}, B = {batch_size}, {at}", fontsize=8)
    handles, labels = all_panels[0, 0].get_legend_handles_labels()
    columns = max(1, int(CHARACTERS_PER_INCH * size[0]) // (max(map(len, labels)) + 8))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=6, frameon=False)
    environment, num_parts = content["environment"], max(row["num_parts"] for row in shaped)
    figure.suptitle(
        f"{content['model']}\n{num_parts} processes ({environment['cpu']}); median, p10 to p90\nstar: "
        "as fast as one device",
        fontsize=7,
    )
    save(figure, path)


def panel(axes: plt.Axes, rows: list[dict], settings: list[str], name: str, unit: float) -> None:
    """Draws speed-up against the field `name`, in `unit`: a line for each setting, dashed for one device."""
    axes.axhline(1, linestyle="--", color="black", linewidth=1, label="one device")
    for i, setting in enumerate(settings):
        records = sorted((row for row in rows if row["setting"] == setting), key=lambda row: row[name])
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        at, ys = [row[name] / unit for row in records], [row["speedup"] for row in records]
        bars = [[abs(row["speedup"] - row[f"speedup_{p}"]) for row in records] for p in ("p10", "p90")]
        style: dict[str, Any] = {
            "marker": marker,
            "color": colour,
            "markersize": 4,
            "linewidth": 0.9,
            "elinewidth": 0.6,
        }
        axes.errorbar(at, ys, bars, label=setting.replace("_", " "), **style)
        star: dict[str, Any] = {
            "color": colour,
            "markeredgecolor": "black",
            "markersize": 10,
            "markeredgewidth": 0.5,
            "zorder": 5,
        }
        for x, y in crossings([*zip(at, ys, strict=True)], logarithmic=name != "rtt_ms"):
            axes.plot(x, y, "*", **star)
    if name != "rtt_ms":
        xs = sorted({row[name] / unit for row in rows})
        axes.set_xscale("log")
        axes.set_xticks(xs, [f"{x:g}" for x in xs], minor=False)
        axes.minorticks_off()
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if f"{y:.0e}"[0] in "235" else "")
    axes.tick_params(which="both", labelsize=7)
    axes.set_ylabel("times as fast as one device")
    axes.grid(alpha=0.25)


def crossings(points: list[tuple[float, float]], *, logarithmic: bool) -> list[tuple[float, float]]:
    """Returns the points where a line crosses 1. Its pieces are straight in log y, and in x or, if `logarithmic`, in
    log x."""
    intersections = []
    for (x0, y0), (x1, y1) in pairwise(points):
        before, after = log(y0), log(y1)
        if before * after < 0:
            share = before / (before - after)
            intersections.append((exp(log(x0) + share * log(x1 / x0)) if logarithmic else x0 + share * (x1 - x0), 1.0))
    return intersections
