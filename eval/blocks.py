"""Where an exchange hurts, block by block.

python -m eval.blocks configs/X.py [--exchange segment_means:4] [--num-parts 4] [--checkpoint RUN] [--limit N] [--out DIR] [flags]
    -> for each block, how far its output is from the exact one, and the score when this block alone is compressed;
       DIR/results.json, blocks.png
"""

import shlex
import sys
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from eval.reporting import files, other_plots
from eval.reporting.tables import UNITS, with_interval
from eval.scoring.block_errors import alone, departures, runner
from eval.scoring.measure import check_runs, load_scoring
from eval.scoring.rows import Score
from eval.scoring.variants import BASE, ONE_DEVICE
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.cli.flags import Flat
from prism_jax.data.text import bucket_lengths
from prism_jax.errors import InputError
from prism_jax.exchange.setting import Setting
from prism_jax.experiments.recipe import Evaluation, Experiment, Preparation
from prism_jax.parallel.processes import is_terminal
from prism_jax.tasks.predict import Predictor
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Blocks:
    experiment: Flat[Experiment]
    evaluation: Flat[Evaluation]
    setting: Flat[Setting]
    training: Preparation
    checkpoint: UserPath | None = None
    """A run of train.finetune (its best checkpoint, or RUN@STEP), or of an adapter in PEFT's layout."""
    out: UserPath = "runs/blocks"
    """Folder for the results."""


def main(argv: list[str]) -> None:
    command = flags.parse(Blocks, __doc__, argv)
    experiment, setting = command.experiment, command.setting
    runner(setting.num_parts)
    setting.check(bucket_lengths(experiment.buckets, experiment.num_tokens))
    check_runs(experiment, [command.checkpoint])
    out = output_folder(command.out)
    scoring = load_scoring(experiment, [setting], {BASE: command.checkpoint})
    if scoring.task.labels is None:
        raise InputError(f"{scoring.dataset.name} has no labels to compare scores by; choose another split")
    params, num_layers = scoring.params[BASE], scoring.model.config.stack.num_layers

    def outcomes(setting: Setting) -> np.ndarray:
        run = runner(setting.num_parts)
        predict = Predictor(scoring.model, scoring.task, setting, run, experiment.batch_size, scoring.buckets)
        return predict(run.replicate(params))

    exact = outcomes(ONE_DEVICE)
    unit = UNITS[scoring.task.metrics[0]]
    columns = (
        "block",
        "cosine similarity",
        "relative error",
        f"{unit} when it alone is compressed [95 %]",
        "to one device [95 %]",
    )
    widths = (7, 18, 15, len(columns[3]) + 1, 20)
    print("".join(text.ljust(width) for text, width in zip(columns, widths, strict=True)), flush=True)
    rows: list[dict] = []
    for block, departure in [*enumerate(departures(scoring, params, setting)), (None, {})]:
        compressed = setting.exchange if block is None else alone(setting.exchange, num_layers, block)
        score = Score.of(scoring.task, outcomes(replace(setting, exchange=compressed)), exact)
        row = {"block": block, **departure, **score.to_json()}
        rows.append(row)
        digits = 1 if row["metric"].endswith("_percent") else 3
        cells = [
            "all" if block is None else str(block),
            *(f"{departure[name]:.4f}" if departure else "-" for name in ("cosine_similarity", "relative_error")),
            with_interval(row["score"], row["score_ci95"], digits),
            with_interval(row["difference_to_one_device"], row["difference_ci95"], digits, "+"),
        ]
        tqdm.write("".join(text.ljust(width) for text, width in zip(cells, widths, strict=True)))
    content = files.results(scoring, rows, f"python -m eval.blocks {shlex.join(argv)}")
    content |= {"setting": str(setting), "one_device": Score.of(scoring.task, exact, None).to_json()}
    files.write_json(out, content)
    if not is_terminal():
        return
    other_plots.blocks(out / "blocks.png", content)
    print(f"wrote {out}/results.json, blocks.png")


if __name__ == "__main__":
    run(main, sys.argv[1:])
