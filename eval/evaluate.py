"""Scores one exchange on one number of parts.

python -m eval.evaluate configs/X.py [--exchange segment_means:8] [--num-parts 4] [--checkpoint DIR] [--out DIR] [flags]
    -> prints the record; DIR/results.json, predictions.tsv (a split without labels has predictions only)
"""

import shlex
import sys
from dataclasses import dataclass

from eval.reporting import files, tables
from eval.scoring.load import load_scoring
from eval.scoring.measure import measure, record
from eval.scoring.variants import BASE
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.cli.flags import Flat
from prism_jax.data.text import bucket_lengths
from prism_jax.exchange.setting import Setting
from prism_jax.experiments.recipe import Evaluation, Experiment, Preparation
from prism_jax.parallel.place import Place, make_runners
from prism_jax.parallel.processes import is_terminal
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Evaluate:
    experiment: Flat[Experiment]
    evaluation: Flat[Evaluation]
    setting: Flat[Setting]
    training: Preparation
    checkpoint: UserPath | None = None
    """Folder of a train.finetune run (its best checkpoint, or RUN@STEP), or of an adapter in PEFT's layout. The default
    is the config's weights."""
    on: Place = "mesh"
    """"mesh" gives each part its own device (emulated ones on a CPU), "one_device" keeps all parts on the same one."""
    out: UserPath = "runs/evaluate"
    """Folder for the results."""


def main(argv: list[str]) -> None:
    command = flags.parse(Evaluate, __doc__, argv)
    experiment, setting = command.experiment, command.setting
    setting.check(bucket_lengths(experiment.buckets, experiment.num_tokens))
    runner = make_runners(command.on, [setting.num_parts])[setting.num_parts]
    out = output_folder(command.out)
    scoring = load_scoring(experiment, [setting], {BASE: command.checkpoint})
    measured = measure(scoring, scoring.predictor(setting, runner), BASE)
    if not is_terminal():
        return
    row = record(scoring, setting, BASE, measured)
    columns = tables.columns([row], row["metric"])
    print(tables.text_table(columns).text([tables.cells(row, columns)]))
    if note := tables.short_texts([row]):
        print(note)
    files.write_json(out, files.results(scoring, [row], f"python -m eval.evaluate {shlex.join(argv)}"))
    files.write_predictions(out / "predictions.tsv", scoring, measured.outcomes)
    print(f"wrote {out}/results.json, predictions.tsv")


if __name__ == "__main__":
    run(main, sys.argv[1:])
