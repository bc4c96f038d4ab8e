"""Output files: results.json, results.csv, predictions.tsv."""

import csv
import io
import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eval.reporting.records import SCHEMA
from eval.scoring.load import Scoring
from prism_jax.folders import write


def environment() -> dict:
    """Returns the versions, devices and machine of a measurement."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "jax": jax.__version__,
        "python": platform.python_version(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "emulated": jax.default_backend() == "cpu" and jax.local_device_count() > 1,
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "commit": commit(),
    }


def commit() -> str | None:
    """Returns the commit of this checkout; None if git does not know it."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:
        return None
    return completed.stdout.strip() or None


def results(scoring: Scoring, rows: list[dict], command: str, remarks: Sequence[str] = ()) -> dict:
    """Returns the contents of results.json. Fields that a record lacks are null. `remarks` are notes on the weights for
    the reader."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        "schema": SCHEMA,
        **scoring.to_json(),
        "remarks": list(remarks),
        "command": command,
        "environment": environment(),
        "rows": [{name: finite(row.get(name)) for name in names} for row in rows],
    }


def finite(value: Any) -> Any:
    """Returns the value, or None if it, or a bound of an interval, is not finite: JSON has no nan. Of a dict, the same
    for each of its values."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return None if isinstance(value, list | tuple) and None in map(finite, value) else value


def write_json(out: Path, content: dict) -> None:
    """Writes results.json, with a line for each field and for each record."""
    compact = partial(json.dumps, separators=(",", ":"))
    fields = {name: compact(value) for name, value in content.items()}
    fields["rows"] = "[\n" + ",\n".join(map(compact, content["rows"])) + "\n]"
    lines = ",\n".join(f"{json.dumps(name)}: {value}" for name, value in fields.items())
    write(out / "results.json", f"{{\n{lines}\n}}\n")


def write_predictions(path: Path, scoring: Scoring, outcomes: np.ndarray) -> None:
    """Writes a tab-separated line for each example: its index in the split, the prediction, and the label if there is
    one."""
    task = scoring.task
    predictions = task.predictions(outcomes)
    index = np.arange(len(predictions)) if scoring.index is None else scoring.index
    labels = [""] * len(predictions) if task.labels is None else task.labels
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t")
    writer.writerow(("index", "prediction", "label"))
    for i, prediction, label in zip(index, predictions, labels, strict=True):
        writer.writerow((i, prediction, " ".join(map(str, np.atleast_1d(label)))))
    write(path, text.getvalue())


def write_csv(out: Path, rows: list[dict]) -> None:
    """Writes a line for each record. Nested values are JSON."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(
        {k: json.dumps(v) if isinstance(v, list | tuple | dict) else v for k, v in row.items()} for row in rows
    )
    write(out / "results.csv", text.getvalue())
