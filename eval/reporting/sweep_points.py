"""What the plots of a sweep show: records as points, with their axes, groups and labels. PNG and HTML draw the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from eval.reporting.style import COLOURS, FILLS, MARKERS
from eval.reporting.tables import UNITS
from eval.scoring.variants import BASE
from prism_jax.metrics.scores import METRICS

SHARE = "GFLOPs of matrix products per device and example"
PARTS = "parts P"

Panels = Mapping[tuple[str, int], dict]
"""Contents of results.json with only the scored records of one N, by name of the run and N."""


def scored(content: dict) -> list[dict]:
    """Returns the records with a finite score."""
    return [row for row in content["rows"] if row.get("score") is not None and np.isfinite(row["score"])]


def panels_of(contents: Mapping[str, dict]) -> Panels:
    """Returns a panel for each run and N.

    Args:
      contents: contents of results.json, by name of the run.
    """
    panels = {}
    for name, content in contents.items():
        rows = scored(content)
        for num_tokens in dict.fromkeys(row["tokens"] for row in rows):
            panels[name, num_tokens] = content | {"rows": [row for row in rows if row["tokens"] == num_tokens]}
    return panels


@dataclass(frozen=True)
class CostAxis:
    """The x axis of a plot of scores.

    Attributes:
      of: returns the cost of a record; None if it has none.
      label: title of the axis.
      is_logarithmic: whether the axis is logarithmic.
      has_front: whether the plot has the Pareto front.
    """

    of: Callable[[dict], float | None]
    label: str
    is_logarithmic: bool
    has_front: bool

    def rows(self, content: dict) -> list[dict]:
        """Returns the records on several parts that have this cost."""
        return [row for row in content["rows"] if row["num_parts"] > 1 and self.of(row) is not None]

    def axis(self, rows: list[dict]) -> tuple[Callable[[dict], float], str]:
        """Returns the place of a record on the axis, and the title of the axis. A record that costs nothing stands left
        of all others."""
        edge = min((cost for row in rows if (cost := self.of(row))), default=1.0) / 4
        nothing = "" if all(map(self.of, rows)) else f" (nothing sent: at {edge:.2g})"
        return lambda row: max(self.of(row) or 0.0, edge), self.label + nothing


@dataclass(frozen=True)
class Plot:
    """A plot of a report.

    Attributes:
      cost: the x axis of a plot of scores; None for the plot of FLOPs against the number of parts.
      title: short description.
      explanation: reading guide for the report.
    """

    cost: CostAxis | None
    title: str
    explanation: str

    def of(self, panels: Panels) -> Panels:
        """Returns the panels that have something to draw."""

        def is_drawn(content: dict) -> bool:
            if self.cost is None:
                return any(row["num_parts"] > 1 for row in content["rows"])
            return bool(self.cost.rows(content))

        return {name: content for name, content in panels.items() if is_drawn(content)}


def sent(row: dict) -> float:
    """Returns the kB that a device sends for one example."""
    return row["bytes_sent_per_device"] / 1e3


def computed(row: dict) -> float:
    """Returns the GFLOPs of a device for one example, by formula."""
    return row["flops_per_device"] / 1e9


def rate(row: dict) -> float | None:
    """Returns the compression rate; None for a record that has none."""
    return row["compression_rate"] or None


PLOTS = {
    "score_bytes": Plot(
        CostAxis(sent, "kB sent per device and example", is_logarithmic=True, has_front=True),
        "score against bytes",
        "The score against the bytes that a device sends for one example: to the left is cheaper. "
        "No record that sends as little beats a record on the grey front. Bars are 95 % intervals; "
        "markers are filled as the legend says for each kind of weights.",
    ),
    "score_flops": Plot(
        CostAxis(computed, SHARE, is_logarithmic=False, has_front=True),
        "score against FLOPs",
        "The score against the matrix products that a device computes for one example: to the left is cheaper. The "
        "grey front joins all numbers of parts, and with more of them a device computes less.",
    ),
    "score_rate": Plot(
        CostAxis(rate, "compression rate, tokens of a part / rows sent", is_logarithmic=True, has_front=False),
        "score against compression rate",
        "The score against the compression rate, the tokens of a part over the rows it sends: to the right is cheaper.",
    ),
    "compute_parts": Plot(
        None,
        "compute per device",
        "What each device computes, by formula: the dashed line shares one device's work out evenly. "
        "Above it lies what a part "
        "computes for rows of other parts; below it, what PRISM and isolated parts never compute.",
    ),
}
"""Plots of a report, by name."""


def kind_of(row: dict) -> str:
    """Returns the exchange and the wire format in words."""
    wire = "" if row["wire"] == "float32" else f", {row['wire']}"
    return row["exchange"].replace("_", " ") + wire


class Styles:
    """Styles of points: a colour for each number of parts, a marker for each exchange and wire."""

    def __init__(self, rows: list[dict]):
        self.parts = sorted({row["num_parts"] for row in rows})
        self.weights = list(dict.fromkeys([BASE, *(row["weights"] for row in rows)]))
        self.kinds = list(dict.fromkeys(kind_of(row) for row in rows))

    def of(self, row: dict) -> tuple[int, str, str]:
        """Returns the properties that the points of a line share."""
        return row["num_parts"], row["weights"], kind_of(row)

    def fill(self, kind: str) -> str:
        return FILLS[self.weights.index(kind) % len(FILLS)]

    def colour(self, num_parts: int) -> str:
        return COLOURS[self.parts.index(num_parts) % len(COLOURS)]

    def marker(self, row: dict) -> str:
        return MARKERS[self.kinds.index(kind_of(row)) % len(MARKERS)]

    def shift(self, num_parts: int) -> float:
        """Returns a small horizontal factor that keeps the bars of different numbers of parts apart."""
        return 1.06 ** (self.parts.index(num_parts) - (len(self.parts) - 1) / 2)


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


def one_device(content: dict) -> list[tuple[dict, str]]:
    """Returns the records of one device, each with its label."""
    rows = [row for row in content["rows"] if row["num_parts"] == 1]
    return [(row, "one device" if row["weights"] == BASE else f"one device, {row['weights'][-16:]}") for row in rows]


@dataclass(frozen=True)
class Shares:
    """FLOPs of a device against the number of parts, in one panel.

    Attributes:
      ideal: GFLOPs of one device, divided evenly, by number of parts.
      lines: GFLOPs by number of parts, for each exchange and L by its label. All begin at one device.
    """

    ideal: Mapping[int, float]
    lines: Mapping[str, Mapping[int, float]]


def shares(content: dict) -> Shares:
    """Returns the FLOPs of a device against the number of parts."""
    rows = content["rows"]
    whole = rows[0]["flops_per_device"] / rows[0]["flops_vs_one_device"] / 1e9
    lines: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["num_parts"] > 1:
            length = f", L = {row['num_segments']}" if row["num_segments"] else ""
            label = row["exchange"].replace("_", " ") + length
            lines.setdefault(label, {1: whole})[row["num_parts"]] = computed(row)
    parts = sorted({1, *(row["num_parts"] for row in rows)})
    return Shares({num_parts: whole / num_parts for num_parts in parts}, lines)


def is_spread(content: dict) -> bool:
    """Returns whether scores are perplexities that lie far apart. Their axis is then logarithmic."""
    scores = [row["score"] for row in content["rows"]]
    return content["rows"][0]["metric"] == "perplexity" and max(scores) > 4 * min(scores)


def score_label(content: dict) -> str:
    """Returns the title of the axis of scores."""
    return f"{UNITS[content['rows'][0]['metric']]} (bars: 95 % interval)"


def title(name: str, content: dict, has_several_panels: bool) -> list[str]:
    """Returns the lines above a panel: the run, if there are several; model; data, n and N."""
    first = content["rows"][0]
    lines = [content["model"], f"{content['dataset']}, n = {first['examples']}, N = {first['tokens']}"]
    return [name, *lines] if has_several_panels else lines
