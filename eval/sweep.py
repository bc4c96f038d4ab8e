"""Scores exchanges and numbers of parts side by side, on emulated devices or real ones.

python -m eval.sweep configs/X.py [--parts 1 2 4] [--segments 1 4 16] [--limit N] [--out DIR]
        [--base RUN] [--tuned RUN] [--control RUN] [flags]
    -> a line for each row as it finishes; DIR/results.json, results.csv, report.md, accuracy_bytes.png
"""

import shlex
import sys
from dataclasses import dataclass

import numpy as np

from eval import plots, report
from eval.rows import recovery_row
from eval.scoring import BASE, CONTROL, TUNED, load_scoring, score
from prism_jax import config, flags
from prism_jax.command import output_folder, run
from prism_jax.errors import InputError
from prism_jax.exchange import AllGather, IsolatedParts, SegmentMeans, WholeSequence
from prism_jax.prediction import Setting
from prism_jax.runners import emulate_devices, on_mesh
from prism_jax.text import bucket_lengths

ONE_DEVICE = Setting(WholeSequence(), 1)
NOT_TUNED = (WholeSequence, AllGather, IsolatedParts)
"""Exchanges that are exact, or send nothing: they are scored with the base weights alone."""


@dataclass(frozen=True)
class Sweep:
    experiment: config.Flat
    base: str | None = None
    """A run of train.finetune (RUN or RUN@STEP) or an adapter in PEFT's layout, in place of the config's weights."""
    control: str | None = None
    """The same, tuned as long without an exchange: scored on one device, and what recovery is measured against."""
    out: str = "runs/sweep"
    """Folder for the results."""


def plan(experiment: config.Experiment, *, tuned: bool, control: bool) -> list[tuple[Setting, str]]:
    """Settings with their weights. One device first, as the reference; then every exchange on every number of parts."""
    exchanges = list(dict.fromkeys([*experiment.baselines, *map(SegmentMeans, experiment.segments)]))
    parts = [num_parts for num_parts in dict.fromkeys(experiment.parts) if num_parts != 1]
    planned = [(ONE_DEVICE, BASE)] + ([(ONE_DEVICE, CONTROL)] if control else [])
    for setting in (Setting(exchange, num_parts) for num_parts in parts for exchange in exchanges):
        planned.append((setting, BASE))
        if tuned and not isinstance(setting.exchange, NOT_TUNED):
            planned.append((setting, TUNED))
    return planned


def main(argv: list[str]) -> None:
    command = flags.parse(Sweep, __doc__, argv)
    experiment, tuned = command.experiment, command.experiment.tuned
    out = output_folder(command.out)
    planned = plan(experiment, tuned=tuned is not None, control=command.control is not None)
    settings = [setting for setting, _ in planned]
    for setting in settings:
        setting.check(bucket_lengths(experiment.buckets, experiment.num_tokens))
    emulate_devices(max(setting.num_parts for setting in settings))
    runners = {setting.num_parts: on_mesh(setting.num_parts) for setting in settings}
    others = {kind: source for kind, source in ((TUNED, tuned), (CONTROL, command.control)) if source}
    scoring = load_scoring(experiment, settings, {BASE: command.base, **others})

    if scoring.task.labels is None:
        raise InputError(
            f"{scoring.dataset_name} has no labels to compare scores by; use eval.evaluate to predict them"
        )
    for name in report.AT_THE_END:
        (out / name).unlink(missing_ok=True)
    rows: list[dict] = []
    kept: dict[tuple[Setting, str], np.ndarray] = {}
    columns = report.columns(scoring.task.metrics[0], others)
    print(report.line(columns, columns), flush=True)
    for setting, weights in planned:
        reference = kept.get((ONE_DEVICE, BASE))
        row, kept[setting, weights] = score(scoring, setting, runners[setting.num_parts], weights, reference)
        if weights == TUNED and command.control:
            row |= recovery_row(
                scoring.task,
                *(kept[key] for key in ((setting, TUNED), (setting, BASE), (ONE_DEVICE, CONTROL), (ONE_DEVICE, BASE))),
            )
        rows.append(row)
        print(report.line(columns, report.cells(row, columns)), flush=True)
        content = report.results(scoring, rows)
        report.write_json(out, content)
    report.write_csv(out, rows)
    report.write(out / "report.md", report.markdown(content, columns, f"python -m eval.sweep {shlex.join(argv)}"))
    plots.score_against_bytes(out / "accuracy_bytes.png", content)
    print(f"wrote {out}/results.json, results.csv, report.md, accuracy_bytes.png")


if __name__ == "__main__":
    run(main, sys.argv[1:])
