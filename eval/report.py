"""Writes what a run found: results.json, results.csv, report.md."""

import csv
import json
import os
import platform
import subprocess
from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np

from eval.scoring import CONTROL, Scoring
from prism_jax import config
from prism_jax.command import write
from prism_jax.task import Task

SCHEMA = 1
AT_THE_END = ("results.csv", "report.md", "accuracy_bytes.png")
"""What is written when all rows are there; results.json grows row by row."""


def environment() -> dict:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "jax": jax.__version__,
        "python": platform.python_version(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "emulated": jax.default_backend() == "cpu",
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit of this checkout; None where git does not know."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:
        return None
    return done.stdout.strip() or None


def results(scoring: Scoring, rows: list[dict]) -> dict:
    """The contents of results.json."""
    return {
        "schema": SCHEMA,
        "config": config.to_json(scoring.experiment),
        "model": f"{type(scoring.model).__name__}, {scoring.experiment.weights}",
        "weights": scoring.sources,
        "dataset": scoring.dataset_name,
        "environment": environment(),
        "rows": rows,
    }


def write_json(out: Path, content: dict) -> None:
    write(out / "results.json", json.dumps(content, indent=2))


def write_predictions(path: Path, task: Task, outcomes: np.ndarray) -> None:
    """A line for each example: its index, what was predicted, and the label where there is one. Tabs between them."""
    predictions = task.predictions(outcomes)
    labels = [""] * len(predictions) if task.labels is None else task.labels
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(("index", "prediction", "label"))
        for i, (prediction, label) in enumerate(zip(predictions, labels, strict=True)):
            writer.writerow((i, prediction, " ".join(map(str, np.atleast_1d(label)))))


def write_csv(out: Path, rows: list[dict]) -> None:
    """A line a row; nested values as JSON."""
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(
            {k: json.dumps(v) if isinstance(v, list | tuple | dict) else v for k, v in row.items()} for row in rows
        )


UNITS = {
    "accuracy_percent": "accuracy %",
    "f1_percent": "F1 %",
    "matthews_percent": "Matthews %",
    "pearson_percent": "Pearson %",
    "spearman_percent": "Spearman %",
    "perplexity": "perplexity",
    "bits_per_byte": "bits/byte",
    "loss_nats": "loss, nats",
}
"""Metrics as a column calls them."""
WIDTHS = {
    "parts": 5,
    "exchange": 14,
    "weights": 7,
    "L": 3,
    "CR": 5,
    "GFLOPs": 15,
    "kB sent": 17,
    "real tokens": 11,
    "s": 6,
}


def columns(metric: str, kinds: Collection[str] = ()) -> tuple[str, ...]:
    """The columns of a table of rows with this score; with several kinds of weights, those too."""
    several = ("weights",) if kinds else ()
    recovered = ("recovery % [95 %]",) if CONTROL in kinds else ()
    score = f"{UNITS[metric]} [95 %]"
    costs = ("GFLOPs", "kB sent", "real tokens", "in every part", "s")
    return ("parts", "exchange", "L", "CR", *several, score, "to one device [95 %]", *recovered, *costs)


def cells(row: dict, columns: Collection[str]) -> list[str]:
    """A row as text, in the order of the columns. Formula and compiled figures stand as a / b."""
    score = f"{UNITS[row['metric']]} [95 %]"
    digits = 1 if row["metric"].endswith("_percent") else 3
    texts = {
        "parts": str(row["num_parts"]),
        "exchange": row["exchange"],
        "L": str(row["num_segments"] or "-"),
        "CR": f"{row['compression_rate']:.1f}" if row["compression_rate"] else "-",
        "weights": row["weights"],
        score: with_interval(row["score"], row["score_ci95"], digits),
        "to one device [95 %]": with_interval(row["difference_to_one_device"], row["difference_ci95"], digits, "+"),
        "recovery % [95 %]": with_interval(row.get("recovery_percent"), row.get("recovery_ci95"), 0),
        "GFLOPs": two_ways(row, "flops_per_device", 1e9, 3),
        "kB sent": two_ways(row, "bytes_sent_per_device", 1e3, 1),
        "real tokens": f"{row['real_tokens_median']:.0f}",
        "in every part": f"{100 * row['share_in_every_part']:.0f} %",
        "s": f"{row['seconds']:.1f}",
    }
    return [texts[column] for column in columns]


def with_interval(value: float | None, interval: tuple[float, float] | None, digits: int, sign: str = "") -> str:
    """A value with its interval behind it."""
    if value is None or interval is None:
        return "-"
    low, high = interval
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def two_ways(row: dict, name: str, unit: float, digits: int) -> str:
    """A cost as formula / compiled."""
    values = row[name], row[f"{name}_compiled"]
    return " / ".join("-" if value is None else f"{value / unit:.{digits}f}" for value in values)


def line(columns: Collection[str], texts: Collection[str]) -> str:
    """Cells in columns, for the terminal."""
    widths = [WIDTHS.get(column, 21) for column in columns]
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()


def markdown_table(rows: list[dict], columns: Collection[str]) -> str:
    table = [columns, ["---"] * len(columns), *(cells(row, columns) for row in rows)]
    return "\n".join(f"| {' | '.join(texts)} |" for texts in table)


def markdown(content: dict, columns: Collection[str], command: str) -> str:
    """report.md."""
    rows, where = content["rows"], content["environment"]
    kind = (
        "emulated CPU devices; their accuracy is that of real ones, their time is not"
        if where["emulated"]
        else "devices"
    )
    return f"""# {content["model"]} on {content["dataset"]}

{rows[0]["examples"]} examples of {rows[0]["tokens"]} tokens, padding included; the median has {rows[0]["real_tokens_median"]:.0f} real ones.
{where["devices"]} ({kind}), JAX {where["jax"]}, {where["cpu"]}, {where["cores"]} cores, commit {where["commit"]}.

{markdown_table(rows, columns)}

- *CR* is the compression rate, tokens of a part over rows it sends. A score has its 95 % interval (accuracy: Wilson; other figures:
  bootstrap). *To one device* is the difference on the same examples, with its 95 % interval.{_weights(content)}
- *GFLOPs* are the matrix products of the blocks, *kB sent* what the block exchanges send; both per device and example, by the formula / in
  the compiled program. results.json lists by name what else the program computes, and the bytes of the split and the join.
- *Real tokens* is the median over the examples, padding left out. *In every part* is the share of the examples with real tokens in every part:
  the others test the exchange less, or not at all.
- *s* is wall time, compilation included. Emulated devices share the cores, so it says nothing about real ones.

![score against bytes](accuracy_bytes.png)

The score against the bytes that a device sends for one example: to the left is cheaper.

Run it again: `{command}`
"""


def _weights(content: dict) -> str:
    """Where the kinds of weights come from, where there are several."""
    sources = content["weights"]
    if len(sources) == 1:
        return ""
    text = "\n- Weights: " + "; ".join(f"*{kind}* from {source}" for kind, source in sources.items()) + "."
    if CONTROL in sources:
        text += """ *Recovery* is (tuned - base) / (control on one
  device - base), at the same exchange; it is given only where the interval of its denominator excludes zero. results.json has the
  paper's own definition too, with one device's base score in place of the control's."""
    return text
