"""Scores one exchange on one number of parts.

python -m eval.evaluate configs/X.py [--exchange segment_means:8] [--num-parts 4] [--checkpoint DIR] [--out DIR] [flags]
    -> prints the row; DIR/results.json
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from eval import report
from eval.scoring import Setting, load_task, score
from prism_jax import checkpoint, config
from prism_jax.command import output_folder, run
from prism_jax.exchange import check
from prism_jax.runners import emulate_devices, on_mesh


@dataclass(frozen=True)
class Evaluate:
    experiment: config.Flat
    checkpoint: str | None = None
    """Folder of a train.finetune run, whose best checkpoint stands in for the config's head."""
    out: str = "runs/evaluate"
    """Folder for the results."""


def main(argv: list[str]) -> None:
    command = config.parse(Evaluate, __doc__, argv)
    experiment, out = command.experiment, output_folder(command.out)
    setting = Setting(experiment.exchange, experiment.num_parts)
    check(setting.exchange, experiment.num_tokens, setting.num_parts)
    emulate_devices(setting.num_parts)
    runner = on_mesh(setting.num_parts)
    trained = None
    if command.checkpoint:
        trained = checkpoint.load_best(Path(command.checkpoint))
        checkpoint.check_same_model(trained.run, experiment)
    task = load_task(experiment, [setting], trained)
    row, _ = score(task, setting, runner)
    print(report.line(report.COLUMNS), report.line(report.cells(row)), sep="\n")
    report.write_json(out, report.results(task, [row]))
    print(f"wrote {out}/results.json")


if __name__ == "__main__":
    run(main, sys.argv[1:])
