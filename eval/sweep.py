"""Scores a grid of exchanges, numbers of parts, wire formats, lengths and weights, on emulated devices or real ones.

python -m eval.sweep configs/X.py [--parts 1 2 4] [--segments 1 4 16] [--exchanges EXCHANGE ...] [--wires float32 int8]
        [--lengths 128 256] [--limit N] [--base RUN] [--tuned RUN] [--control RUN] [--checkpoints RUN ...] [--out DIR]
        [flags]
    -> a line for each record as it finishes; DIR/results.json, results.csv, report.md and plots; DIR/rows lets a
       second call of the command resume
"""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from eval.reporting import files, markdown, tables
from eval.reporting.sweep_points import scored
from eval.scoring import variants
from eval.scoring.load import load_scoring
from eval.scoring.rows import planned_row
from eval.scoring.variants import BASE, CONTROL, TUNED
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
    experiment, tuned = command.experiment, command.tuned
    if (config_tuned := command.evaluation.tuned) and not tuned:
        if command.base:
            print(
                f"{config_tuned} was tuned from the config's own weights, not from --base, so it is left out; "
                "add --tuned RUN"
            )
        else:
            tuned = config_tuned
    experiment = replace(experiment, evaluation=replace(command.evaluation, tuned=tuned))
    named = {TUNED: tuned, CONTROL: command.control}
    if reserved := {BASE, *named}.intersection(command.checkpoints):
        raise InputError(
            f"--checkpoints has {min(reserved)!r}, which has a special meaning here; give it as ./{min(reserved)}"
        )
    sources = {kind: source for kind, source in named.items() if source} | {run: run for run in command.checkpoints}
    rows = plan(experiment, (BASE, *sources))
    settings = list(dict.fromkeys(row.setting for row in rows if not row.impossible))
    runners = make_runners(command.on, {setting.num_parts for setting in settings})
    out = output_folder(command.out or f"runs/{Path(argv[0]).stem}/sweep")
    lengths = list(dict.fromkeys(row.num_tokens for row in rows))
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
    sweeper = Sweeper(rows, scorings, store.Store(out / "rows"), runners)
    command_line = f"python -m eval.sweep {shlex.join(argv)}"
    planned_rows = [planned_row(row) for row in rows]
    columns = tables.columns(planned_rows, scoring.task.metrics[0])
    table = tables.text_table(columns).fitted(tables.failed_cells(row, columns) for row in planned_rows)
    print(table.header, flush=True)
    grows = not (out / "results.csv").exists()  # complete results stay until the new ones are complete
    try:
        with Progress(rows, "records", unit="record", leave=True) as progress:
            for planned in progress:
                row = sweeper(planned)
                Progress.write(table.line(tables.cells(row, columns)))
                if "error" in row and not planned.impossible:
                    Progress.write(f"        {row['error']}")
                if grows:
                    files.write_json(out, files.results(scoring, sweeper.rows, command_line, remarks))
    except KeyboardInterrupt:
        raise RunError("interrupted; the same command goes on after the last record") from None
    if not is_terminal():
        return
    content = files.results(scoring, sweeper.rows, command_line, remarks)
    if note := tables.short_texts(content["rows"]):
        print(note)
    for name in markdown.FINAL_FILES:
        (out / name).unlink(missing_ok=True)
    files.write_json(out, content)
    files.write_csv(out, content["rows"])
    written = markdown.write_report(out, {out.name: content}) if scored(content) else []
    print(f"wrote {out}/{', '.join(['results.json', 'results.csv', *written])}")
    if failed := sum(
        "error" in row and not planned.impossible for row, planned in zip(sweeper.rows, rows, strict=True)
    ):
        raise RunError(
            f"{failed} of {len(rows)} records failed; {out}/results.json says why; the same command tries them again"
        )


if __name__ == "__main__":
    run(main, sys.argv[1:])
