"""Compares the cost tables of the PRISM paper (arXiv 2507.12145) with ours: published, by formula, and from the
compiled program. No weights are needed.

python -m eval.paper [--out DIR]
    -> prints the tables; DIR/results.json with --out; exit status 1 if a percentage is off by more than 0.5 points or a
       GFLOPs figure by more than 1 %
"""

import dataclasses
import sys
from dataclasses import dataclass

from eval.reporting import files
from eval.reporting.text_table import Column, TextTable
from prism_jax import cost
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.errors import RunError
from prism_jax.exchange.base import Exchange
from prism_jax.exchange.baselines import AllGather, WholeSequence
from prism_jax.exchange.segments import SegmentMeans
from prism_jax.models.base import Model
from prism_jax.models.bert import BERT_BASE, BertForSequenceClassification
from prism_jax.models.vit import VIT_BASE, ViTForImageClassification
from prism_jax.parallel.mesh import emulate_devices, on_mesh
from prism_jax.user_paths import UserPath

GFLOPS, COMPUTE, COMPUTE_TO_VOLTAGE, TRAFFIC = (
    "GFLOPs per device",
    "compute saved %, vs one device",
    "compute saved %, vs Voltage",
    "communication saved %",
)
POINTS, RELATIVE = 0.5, 0.01
"""Largest allowed differences: points of a percentage, and the share of a GFLOPs figure."""


@dataclass(frozen=True)
class Table:
    """A table of the paper: a model on P = 2 devices.

    Attributes:
      title: model and data set.
      model: the model, in the paper's size.
      num_tokens: N.
      embeds: whether the published figures of one device include the product that embeds patches.
      published: the paper's figures, by exchange.
      accuracy: the paper's accuracy in percent, by exchange; not measured here.
    """

    title: str
    model: Model
    num_tokens: int
    embeds: bool
    published: dict[Exchange, dict[str, float]]
    accuracy: dict[Exchange, str] = dataclasses.field(default_factory=dict)


TABLES = (
    Table(
        "BERT-base, N = 256, P = 2",
        BertForSequenceClassification(BERT_BASE),
        256,
        False,
        {
            WholeSequence(): {GFLOPS: 45.902},
            AllGather(): {GFLOPS: 26.58},
            SegmentMeans(1): {GFLOPS: 22.380, COMPUTE: 51.24, COMPUTE_TO_VOLTAGE: 15.8, TRAFFIC: 99.2},
        },
    ),
    Table(
        "ViT-B/16, 224 pixels, N = 197, P = 2, CIFAR-10",
        ViTForImageClassification(VIT_BASE),
        197,
        True,
        {
            WholeSequence(): {GFLOPS: 35.15},
            AllGather(): {GFLOPS: 20.37, COMPUTE: 42.05},
            SegmentMeans(10): {GFLOPS: 17.54, COMPUTE: 50.11, TRAFFIC: 89.90},
            SegmentMeans(20): {GFLOPS: 17.86, COMPUTE: 49.20, TRAFFIC: 79.80},
            SegmentMeans(30): {GFLOPS: 18.18, COMPUTE: 48.29, TRAFFIC: 69.70},
        },
        {
            WholeSequence(): "98.01",
            AllGather(): "98.01",
            SegmentMeans(10): "95.64 (fine-tuned 97.43)",
            SegmentMeans(20): "96.84",
            SegmentMeans(30): "97.06",
        },
    ),
)


@dataclass(frozen=True)
class Figure:
    """A figure of the paper, with our values."""

    table: str
    exchange: str
    name: str
    published: float
    formula: float
    compiled: float

    @property
    def agrees(self) -> bool:
        allowed = RELATIVE * self.published if self.name == GFLOPS else POINTS
        return all(abs(value - self.published) <= allowed for value in (self.formula, self.compiled))


@dataclass(frozen=True)
class Paper:
    out: UserPath | None = None
    """Folder for results.json. By default, it is not written."""


def figures_of(table: Table) -> list[Figure]:
    """Returns all figures of a table, in its order."""
    formula: dict[Exchange, dict[str, float]] = {}
    compiled: dict[Exchange, dict[str, float]] = {}
    config, N = table.model.config, table.num_tokens
    for exchange in table.published:
        num_parts = 1 if isinstance(exchange, WholeSequence) else 2
        formula_cost = cost.formula(config.stack, exchange, num_parts, N)
        compiled_cost = cost.compiled_from_shapes(table.model, exchange, on_mesh(num_parts), N)
        embedding = compiled_embedding = 0.0
        if table.embeds and num_parts == 1:
            embedding = 2 * (config.num_tokens - 1) * config.patch_pixels * config.stack.features
            compiled_embedding = compiled_cost.flops_outside["embeddings"]
        formula[exchange] = derived(formula_cost.flops + embedding, formula_cost.bytes_sent, formula)
        compiled[exchange] = derived(compiled_cost.flops + compiled_embedding, compiled_cost.bytes_sent, compiled)
    return [
        Figure(table.title, str(exchange), name, value, formula[exchange][name], compiled[exchange][name])
        for exchange, stated in table.published.items()
        for name, value in stated.items()
    ]


def derived(flops: float, bytes_sent: float, before: dict[Exchange, dict[str, float]]) -> dict[str, float]:
    """Returns the paper's figures from a cost, given those of one device and of Voltage."""
    figures = {GFLOPS: flops / 1e9, "bytes": bytes_sent}
    if one_device := before.get(WholeSequence()):
        figures[COMPUTE] = percent_saved(figures[GFLOPS], one_device[GFLOPS])
    if voltage := before.get(AllGather()):
        figures[COMPUTE_TO_VOLTAGE] = percent_saved(figures[GFLOPS], voltage[GFLOPS])
        figures[TRAFFIC] = percent_saved(figures["bytes"], voltage["bytes"])
    return figures


def percent_saved(part: float, whole: float) -> float:
    return 100 * (1 - part / whole)


TEXT_TABLE = TextTable(
    (
        *(Column("exchange", 17), Column("figure", 31), Column("published", 9), Column("formula", 9)),
        *(Column("compiled", 9), Column("", 4)),
    )
)


def text_of(table: Table, figures: list[Figure]) -> str:
    """Returns a table as text, with notes."""
    body = TEXT_TABLE.text(
        (
            *(figure.exchange, figure.name),
            *(f"{x:.2f}" for x in (figure.published, figure.formula, figure.compiled)),
            "" if figure.agrees else "OFF",
        )
        for figure in figures
    )
    stack, N = table.model.config.stack, table.num_tokens
    orders = ", ".join(
        f"{min(cost.formula(stack, AllGather(), P, N).flops, cost.reordered_flops(stack, P, N)) / 1e9:.2f} at P = {P}"
        for P in (2, 4, 8)
    )
    notes = [f"Voltage at the cheaper of its two product orders, by formula: {orders} (GFLOPs)."]
    if table.accuracy:
        accuracy = "; ".join(f"{exchange} {percent}" for exchange, percent in table.accuracy.items())
        notes.append(f"The paper's accuracy in percent, not measured here: {accuracy}.")
    return "\n".join([table.title, "", body, "", *notes, ""])


def main(argv: list[str]) -> None:
    command = flags.parse_flags(Paper, __doc__, argv)
    out = output_folder(command.out) if command.out else None
    emulate_devices(2)
    figures: list[Figure] = []
    for table in TABLES:
        table_figures = figures_of(table)
        print(text_of(table, table_figures), flush=True)
        figures += table_figures
    if out:
        plain = [dataclasses.asdict(figure) | {"agrees": figure.agrees} for figure in figures]
        content = {"schema": files.SCHEMA, "environment": files.environment(), "rows": plain}
        files.write_json(out, content)
        print(f"wrote {out}/results.json")
    if off := [figure for figure in figures if not figure.agrees]:
        raise RunError(
            f"{len(off)} of {len(figures)} figures are off; the allowance is {POINTS} points, "
            f"or {RELATIVE:.0%} of GFLOPs"
        )
    print(f"all {len(figures)} figures agree, to {POINTS} points or {RELATIVE:.0%} of GFLOPs")


if __name__ == "__main__":
    run(main, sys.argv[1:])
