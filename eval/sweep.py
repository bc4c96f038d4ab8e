"""Scores a grid of exchanges, numbers of parts, wire formats, lengths and weights, on emulated devices or real ones.

python -m eval.sweep configs/X.py [--parts 1 2 4] [--segments 1 4 16] [--exchanges EXCHANGE ...] [--wires float32 int8]
        [--lengths 128 256] [--limit N] [--base RUN] [--tuned RUN] [--control RUN] [--checkpoints RUN ...] [--out DIR] [flags]
    -> a line for each row as it finishes; DIR/results.json, results.csv, report.md and plots; DIR/rows is what a second
       call of the command needs to go on
"""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from tqdm import tqdm

from eval import markdown, plots, results, store, tables
from eval.grid import BASE, CONTROL, ONE_DEVICE, TUNED, Planned, plan
from eval.rows import failed_row, planned_row, recovery_row
from eval.scoring import Scoring, complete, load_scoring, measure
from prism_jax import config, flags
from prism_jax.command import output_folder, run
from prism_jax.errors import InputError, RunError
from prism_jax.prediction import Predictor, Setting
from prism_jax.processes import from_terminal, is_terminal, refuse_several, several
from prism_jax.runners import Runner, emulate_devices, on_mesh, on_one_device


@dataclass(frozen=True)
class Sweep:
    UNUSED: ClassVar = {"exchange": "--exchanges or --segments", "num_parts": "--parts"}

    experiment: config.Flat
    base: str | None = None
    """A run of train.finetune (RUN or RUN@STEP) or an adapter in PEFT's layout, in place of the config's weights."""
    control: str | None = None
    """The same, tuned as long without an exchange: scored on one device, and what recovery is measured against."""
    checkpoints: tuple[str, ...] = ()
    """More of them, each scored wherever base is, under its own name."""
    on: Literal["mesh", "one_device"] = "mesh"
    """Whether each part has a device of its own (emulated ones on a CPU), or all lie inside one: the same scores."""
    out: str | None = None
    """Folder for the results; a sweep that was stopped goes on there. runs/NAME/sweep by default, NAME being the config's."""


class Sweeper:
    """Runs planned rows, and takes from the store those that ran before.

    Attributes:
      rows: finished, as they stand in results.json.
    """

    def __init__(self, scorings: Mapping[int, Scoring], rows: store.Store, runners: Mapping[int, Runner]):
        """
        Args:
          scorings: model and examples, by N.
          rows: what ran before.
          runners: by P.
        """
        self.rows = list[dict]()
        self._scorings, self._store, self._runners = scorings, rows, runners
        self._predictor: Predictor | None = None
        self._kept: dict[tuple[int, Setting, str], np.ndarray] = {}
        self._library = store.digest_of_library()
        one = next(iter(scorings.values()))
        self._model, params = store.digest_of_model(one.model), one.params
        self._params = {kind: store.digest_of_params(of) for kind, of in params.items()}
        self._tasks = {N: store.digest_of_task(one.task, N) for N, one in scorings.items()}

    def __call__(self, planned: Planned) -> dict:
        """The row; one that fails says why under "error"."""
        N, setting, weights = planned.num_tokens, planned.setting, planned.weights
        scoring, kept = self._scorings[N], self._kept
        whose = BASE if weights in (TUNED, CONTROL) else weights
        try:
            if planned.impossible:
                raise InputError(planned.impossible)
            measured, outcomes = self._measured(planned)
            row = complete(scoring, setting, weights, measured, outcomes, kept.get((N, ONE_DEVICE, whose)))
            if weights == TUNED:
                others = ((N, setting, BASE), (N, ONE_DEVICE, CONTROL), (N, ONE_DEVICE, BASE))
                row |= recovery_row(scoring.task, outcomes, *map(kept.get, others))
            kept[N, setting, weights] = outcomes
        except Exception as error:
            if several() and not isinstance(error, InputError):
                raise  # the others may not have failed, and wait
            row = failed_row(scoring.task, planned, error)
        self.rows.append(row)
        return row

    def _measured(self, planned: Planned) -> tuple[dict, np.ndarray]:
        scoring, setting = self._scorings[planned.num_tokens], planned.setting
        run = self._runners[setting.num_parts]
        experiment = scoring.experiment
        key = store.digest(
            self._library,
            store.digest_of_exchange(setting),
            self._params[planned.weights],
            self._tasks[planned.num_tokens],
            self._model,
            (setting.num_parts, experiment.num_tokens, scoring.buckets, experiment.batch_size, type(run).__name__),
        )
        if found := from_terminal(lambda: self._store.load(key)):
            return found
        predictor = self._predictor
        if predictor is None or predictor.task is not scoring.task or predictor.setting != setting:
            predictor = Predictor(scoring.model, scoring.task, setting, run, experiment.batch_size, scoring.buckets)
            self._predictor = predictor
        measured, outcomes = measure(scoring, predictor, planned.weights)
        self._store.save(key, measured, outcomes)
        return measured, outcomes


def main(argv: list[str]) -> None:
    command = flags.parse(Sweep, __doc__, argv)
    experiment, tuned = command.experiment, command.experiment.tuned
    out = output_folder(command.out or f"runs/{Path(argv[0]).stem}/sweep")
    named = {TUNED: tuned, CONTROL: command.control}
    if taken := {BASE, *named}.intersection(command.checkpoints):
        raise InputError(
            f"--checkpoints has {min(taken)!r}, which is a name of its own here; give it as ./{min(taken)}"
        )
    sources = {kind: source for kind, source in named.items() if source} | {run: run for run in command.checkpoints}
    rows = plan(experiment, (BASE, *sources))
    settings = list(dict.fromkeys(row.setting for row in rows if not row.impossible))
    if command.on == "one_device":
        refuse_several("--on one_device runs")
    if command.on == "mesh":
        emulate_devices(max(setting.num_parts for setting in settings))
    make = on_mesh if command.on == "mesh" else on_one_device
    runners = {num_parts: make(num_parts) for num_parts in {setting.num_parts for setting in settings}}
    scoring = load_scoring(experiment, settings, {BASE: command.base, **sources})
    if scoring.task.labels is None:
        raise InputError(
            f"{scoring.dataset.name} has no labels to compare scores by; use eval.evaluate to predict them"
        )
    scorings = {num_tokens: scoring.at(num_tokens) for num_tokens in dict.fromkeys(row.num_tokens for row in rows)}
    for name in markdown.AT_THE_END:
        (out / name).unlink(missing_ok=True)
    sweeper = Sweeper(scorings, store.Store(out / "rows"), runners)
    command_line = f"python -m eval.sweep {shlex.join(argv)}"
    columns = tables.columns([planned_row(row) for row in rows], scoring.task.metrics[0])
    print(tables.line(columns, columns), flush=True)
    with tqdm(rows, "rows", unit="row", disable=None) as progress:
        for planned in progress:
            row = sweeper(planned)
            tqdm.write(tables.line(columns, tables.cells(row, columns)))
            content = results.results(scoring, sweeper.rows, command_line)
            results.write_json(out, content)
    if not is_terminal():
        return
    results.write_csv(out, content["rows"])
    written = markdown.write_report(out, {out.name: content}) if plots.scored(content) else []
    print(f"wrote {out}/{', '.join(['results.json', 'results.csv', *written])}")
    if failed := sum(
        "error" in row and not planned.impossible for row, planned in zip(sweeper.rows, rows, strict=True)
    ):
        raise RunError(
            f"{failed} of {len(rows)} rows failed; {out}/results.json says why, and the same command tries them again"
        )


if __name__ == "__main__":
    run(main, sys.argv[1:])
