"""Scores a grid of exchanges, numbers of parts, wire formats, lengths and weights, on emulated devices or real ones.

python -m eval.sweep configs/X.py [--parts 1 2 4] [--segments 1 4 16] [--exchanges EXCHANGE ...] [--wires float32 int8]
        [--lengths 128 256] [--limit N] [--base RUN] [--tuned RUN] [--control RUN] [--checkpoints RUN ...] [--out DIR]
        [flags]
    -> a line for each record as it finishes; DIR/results.json, results.csv, report.md and plots; DIR/rows lets a
       second call of the command resume
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.reporting import files, markdown, tables
from eval.reporting.sweep_points import scored
from eval.scoring import variants
from eval.scoring.load import load_scoring
from eval.scoring.rows import planned_row
from eval.scoring.variants import BASE, CONTROL, TUNED, Planned
from eval.sweeping import store
from eval.sweeping.grid import plan
from eval.sweeping.sweeper import Sweeper
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.cli.flags import Flat
from prism_jax.data.datasets import Corpus
from prism_jax.errors import InputError, RunError
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Preparation
from prism_jax.parallel.place import Place, make_runners
from prism_jax.parallel.processes import from_terminal, is_terminal
from prism_jax.progress import Progress
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Sweep:
    experiment: Flat[Experiment]
    evaluation: Flat[Evaluation]
    grid: Flat[Grid]
    training: Preparation
    base: UserPath | None = None
    """A run of train.finetune (RUN or RUN@STEP) or an adapter in PEFT's layout, in place of the config's weights."""
    tuned: UserPath | None = None
    """Run or adapter that was tuned from base through an exchange. It is scored wherever the exchange loses something.
    The default is the config's, unless --base is given."""
    control: UserPath | None = None
    """Run or adapter that was tuned from base equally long without an exchange. It is scored on one device, as the
    reference of recovery."""
    checkpoints: tuple[UserPath, ...] = ()
    """Further runs or adapters. Each is scored in all settings of base, under its own name."""
    on: Place = "mesh"
    """"mesh" gives each part its own device (emulated ones on a CPU), "one_device" keeps all parts on the same
    one. The scores are the same."""
    out: UserPath | None = None
    """Folder for the results. An interrupted sweep resumes there. The default is runs/NAME/sweep, where NAME is the
    config's."""


def main(argv: list[str]) -> None:
    command = flags.parse(Sweep, __doc__, argv)
    tuned = tuned_source(command)
    sources = named_sources(command, tuned)
    experiment = replace(command.experiment, evaluation=replace(command.evaluation, tuned=tuned))
    planned = plan(experiment, (BASE, *sources))
    settings = list(dict.fromkeys(record.setting for record in planned if not record.impossible))
    runners = make_runners(command.on, {setting.num_parts for setting in settings})
    out = output_folder(command.out or f"runs/{Path(argv[0]).stem}/sweep")
    lengths = list(dict.fromkeys(record.num_tokens for record in planned))
    scoring = load_scoring(experiment, settings, {BASE: command.base, **sources}, lengths=lengths)
    if scoring.task.labels is None:
        raise InputError(
            f"{scoring.dataset.name} has no labels to compare scores by; use eval.evaluate to predict them"
        )
    remarks = from_terminal(lambda: variants.remarks(command.base, tuned, command.control))
    for remark in remarks:
        print(f"note: {remark}; so recovery compares more than the exchange")
    if isinstance(scoring.dataset, Corpus) and scoring.limit and len(lengths) > 1:
        print(f"note: --limit keeps {scoring.limit} windows of plain text at each N, so every N has another text")
    scorings = {num_tokens: scoring.at(num_tokens) for num_tokens in lengths}
    sweeper = Sweeper(planned, scorings, store.Store(out / "rows"), runners)

    def results() -> dict:
        return files.results(scoring, sweeper.rows, f"python -m eval.sweep {shlex.join(argv)}", remarks)

    score(planned, sweeper, scoring.task.metrics[0], out, results)
    if is_terminal():
        write(out, results())
        check_complete(planned, sweeper.rows, out)


def tuned_source(command: Sweep) -> str | None:
    """Returns the run or adapter that was tuned: the command's, or else the config's. The config's is left out, with a
    note, if the command has another base."""
    of_config = command.evaluation.tuned
    if command.tuned or not of_config:
        return command.tuned
    if command.base:
        print(
            f"{of_config} was tuned from the config's own weights, not from --base, so it is left out; add --tuned RUN"
        )
        return None
    return of_config


def named_sources(command: Sweep, tuned: str | None) -> dict[str, str]:
    """Returns the sources of weights besides base, by kind.

    Raises:
      InputError: if a checkpoint has the name of a kind.
    """
    named = {TUNED: tuned, CONTROL: command.control}
    if reserved := {BASE, *named}.intersection(command.checkpoints):
        raise InputError(
            f"--checkpoints has {min(reserved)!r}, which has a special meaning here; give it as ./{min(reserved)}"
        )
    return {kind: source for kind, source in named.items() if source} | {run: run for run in command.checkpoints}


def score(planned: Sequence[Planned], sweeper: Sweeper, metric: str, out: Path, results: Callable[[], dict]) -> None:
    """Scores the planned records. Prints a line for each, and writes results.json as it grows."""
    planned_rows = list(map(planned_row, planned))
    columns = tables.columns(planned_rows, metric)
    table = tables.text_table(columns).fitted(tables.failed_cells(row, columns) for row in planned_rows)
    print(table.header, flush=True)
    grows = not (out / "results.csv").exists()  # complete results stay until the new ones are complete
    try:
        with Progress(planned, "records", unit="record", leave=True) as progress:
            for record in progress:
                row = sweeper(record)
                Progress.write(table.line(tables.cells(row, columns)))
                if has_failed(record, row):
                    Progress.write(f"        {row['error']}")
                if grows:
                    files.write_json(out, results())
    except KeyboardInterrupt:
        raise RunError("interrupted; the same command goes on after the last record") from None


def has_failed(record: Planned, row: dict) -> bool:
    """Returns whether a record that should have run has an error."""
    return "error" in row and not record.impossible


def write(out: Path, content: dict) -> None:
    """Writes the files of a complete sweep."""
    if note := tables.short_texts(content["rows"]):
        print(note)
    for name in markdown.FINAL_FILES:
        (out / name).unlink(missing_ok=True)
    files.write_json(out, content)
    files.write_csv(out, content["rows"])
    written = markdown.write_report(out, {out.name: content}) if scored(content) else []
    print(f"wrote {out}/{', '.join(['results.json', 'results.csv', *written])}")


def check_complete(planned: Sequence[Planned], rows: Sequence[dict], out: Path) -> None:
    """Raises RunError if records failed."""
    if failed := sum(map(has_failed, planned, rows)):
        raise RunError(
            f"{failed} of {len(rows)} records failed; {out}/results.json says why; the same command tries them again"
        )


if __name__ == "__main__":
    run(main, sys.argv[1:])
