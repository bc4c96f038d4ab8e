"""The figures of `eval.blocks` and `eval.scale`, in the style of the plots of a sweep."""

from pathlib import Path

from eval.plots import COLOURS, MARKERS, finish, plt
from eval.tables import UNITS


def blocks(path: Path, content: dict) -> None:
    """Of `eval.blocks`: how far each block's output is from the exact one, and what compressing this block alone costs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    *each, everything = content["rows"]
    index = [row["block"] for row in each]
    left.plot(
        index, [row["relative_error"] for row in each], "o-", color=COLOURS[0], markersize=4, label="relative error"
    )
    left.plot(
        index,
        [1 - row["cosine_similarity"] for row in each],
        "v--",
        color=COLOURS[1],
        markersize=4,
        label="1 - cosine similarity",
    )
    left.set_ylabel("departure from one device's output")
    left.set_ylim(bottom=0)
    left.legend(fontsize=7)
    for x, row, colour in [*((row["block"], row, COLOURS[0]) for row in each), (len(each), everything, COLOURS[4])]:
        difference, (low, high) = row["difference_to_one_device"], row["difference_ci95"]
        bars = [[difference - low], [high - difference]]
        right.errorbar(x, difference, bars, fmt="o", color=colour, markersize=4, elinewidth=0.8)
    right.axhline(0, color="black", linewidth=0.8, linestyle="--")
    right.set_xticks([*index, len(each)], [*map(str, index), "all"])
    right.set_ylabel(f"{UNITS[everything['metric']]} less one device's (bars: 95 % interval)")
    for axes, what in (
        (left, "output after each block, all compressed"),
        (right, "score with this block alone compressed"),
    ):
        axes.set_title(what, fontsize=8)
        axes.set_xlabel("block")
        axes.grid(alpha=0.25)
    examples = everything["examples"]
    figure.suptitle(f"{content['model']}, {content['setting']} parts, {content['dataset']}, n = {examples}", fontsize=8)
    finish(figure, path)


def scale(path: Path, rows: list[dict], exponents: dict[str, dict[str, float]]) -> None:
    """Of `eval.scale`: time and activations of one part against N, with the fitted powers."""
    figure, several = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    figures = (("seconds", 1.0, "s"), ("memory_activations_bytes_compiled", 2.0**20, "MiB of activations (compiler)"))
    for axes, (name, unit, label) in zip(several, figures, strict=True):
        for i, exchange in enumerate(dict.fromkeys(row["exchange"] for row in rows)):
            mine = sorted((row for row in rows if row["exchange"] == exchange), key=lambda row: row["tokens"])
            power = f", N^{exponents[exchange][name]:.2f}" if exchange in exponents else ""
            text = f"{exchange.replace('_', ' ')} on {mine[0]['num_parts']}{power}"
            at, values = [row["tokens"] for row in mine], [row[name] / unit for row in mine]
            axes.plot(at, values, marker=MARKERS[i], color=COLOURS[i], markersize=4, linewidth=0.8, label=text)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("tokens N")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=6)
    figure.suptitle(
        f"one part alone on one core, {rows[0]['layers']} blocks of BERT-base's size, batch of 1", fontsize=8
    )
    finish(figure, path)
