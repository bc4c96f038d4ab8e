"""Style and file format of plots. Colours suit colour-blind readers, sizes a column of a paper."""

import io
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from prism_jax.cli.entry import write

matplotlib.use("Agg")  # no window

plt.rcParams["text.parse_math"] = False  # a $ in a path starts no formula

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")  # Okabe and Ito
MARKERS = ("o", "v", "s", "D", "^", "P", "X", "*", "<", ">", "p", "h", "d", "8")
FILLS = ("full", "none", "left", "top", "right", "bottom")


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file of 32 colours, a third of the full size, and closes it."""
    for axes in figure.axes:
        axes.tick_params(labelsize=7)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    few_colours = Image.open(drawn).convert("RGB").quantize(32, dither=Image.Dither.NONE)
    few_colours.save(picture, format="png", optimize=True)
    write(path, picture.getvalue())
    plt.close(figure)
