"""Style and file format of plots. Colours suit colour-blind readers, sizes a column of a paper."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image, ImageColor

from prism_jax.folders import write

matplotlib.use("Agg")  # no window

plt.rcParams["text.parse_math"] = False  # a $ in a path starts no formula

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")  # Okabe and Ito
MARKERS = ("o", "v", "s", "D", "^", "<", ">", "p", "h", "d", "P", "X", "8")
FILLS = ("full", "none", "left", "top", "right", "bottom")
POINT: dict[str, Any] = {"markersize": 5, "markeredgewidth": 0.5}
"""Size of a point, and of its edge: thin, so that all `MARKERS` show whether they are filled. A star would not."""

CHARACTERS = 90
"""Number of a legend's characters that fit into the width of a panel."""


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file in the colours of `palette`, a third of the full size, and closes it."""
    for axes in figure.axes:
        axes.tick_params(labelsize=7)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150, bbox_inches="tight")
    few_colours = Image.open(drawn).convert("RGB").quantize(palette=palette(), dither=Image.Dither.NONE)
    few_colours.save(picture, format="png", optimize=True)
    write(path, picture.getvalue())
    plt.close(figure)


@cache
def palette() -> Image.Image:
    """Returns an image whose palette has sixteen greys, and each colour in four strengths on white."""
    greys = [(level,) * 3 for level in range(0, 256, 17)]
    pure = [ImageColor.getrgb(colour) for colour in COLOURS[:-1]]  # the last is black
    tints = [tuple(255 - share * (255 - x) // 4 for x in colour) for colour in pure for share in range(1, 5)]
    image = Image.new("P", (1, 1))
    image.putpalette([x for colour in (*greys, *tints) for x in colour])
    return image


def logarithmic(axes: Axes) -> None:
    """Makes the x axis logarithmic, with room at its ends, and plain numbers."""
    axes.set_xscale("log")
    axes.margins(x=0.1)
    plain_numbers(axes.xaxis)


def plain_numbers(axis: Axis) -> None:
    """Labels a logarithmic axis at 1, 2 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def legend_below(axes: Axes, drop: float = 0.16) -> None:
    """Draws the legend below the panel, with columns that fit its width. Makes the figure higher for a long legend.

    Args:
      axes: the panel.
      drop: distance from the panel, of its height. Room for the labels of the x axis.
    """
    labels = axes.get_legend_handles_labels()[1]
    columns = min(4, max(1, CHARACTERS // (max(map(len, labels)) + 8)))
    rows = -(-len(labels) // columns)
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.set_figheight(max(figure.get_figheight(), 3.6 + 0.14 * rows))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -drop), fontsize=6, ncols=columns)
