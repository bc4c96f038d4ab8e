"""Measures the errors of an exchange, block by block.

python -m eval.blocks configs/X.py [--exchange segment_means:4] [--num-parts 4] [--checkpoint RUN] [--limit N]
    [--out DIR] [flags]
    -> for each block, the error of its output, and the score when only this block is compressed;
       DIR/results.json, blocks.png
"""

import shlex
import sys
from dataclasses import dataclass, replace

import numpy as np

from eval.reporting import files
from eval.reporting.tables import UNITS, with_interval
from eval.reporting.text_table import Column, TextTable
from eval.scoring.block_errors import errors_of_blocks, in_one_block, runner_for
from eval.scoring.load import load_scoring
from eval.scoring.rows import Score
from eval.scoring.variants import BASE, ONE_DEVICE
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.cli.flags import Flat
from prism_jax.data.text import bucket_lengths
from prism_jax.errors import InputError
from prism_jax.exchange.base import as_tuple
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.experiments.recipe import Evaluation, Experiment, Preparation
from prism_jax.parallel.processes import is_terminal
from prism_jax.progress import Progress
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Blocks:
    experiment: Flat[Experiment]
    evaluation: Flat[Evaluation]
    setting: Flat[Setting]
    training: Preparation
    checkpoint: UserPath | None = None
    """Folder of a train.finetune run (its best checkpoint, or RUN@STEP), or of an adapter in PEFT's layout. The default
    is the config's weights."""
    out: UserPath = "runs/blocks"
    """Folder for the results."""


def main(argv: list[str]) -> None:
    command = flags.parse(Blocks, __doc__, argv)
    experiment, setting = command.experiment, command.setting
    runner_for(setting.num_parts)
    setting.check(bucket_lengths(experiment.buckets, experiment.num_tokens))
    if any(in_block.remembers for in_block in as_tuple(setting.exchange)):
        raise InputError(
            f"{text_of(setting.exchange)} reads rows of earlier blocks, so no block can be compressed alone; "
            "choose another exchange"
        )
    if setting.num_parts > 1 and experiment.model.extra_rows:
        raise InputError(
            f"a block of {experiment.model.__name__} gives more rows than tokens, so they can't be compared with one "
            "device's token by token; choose a model without additional rows"
        )
    out = output_folder(command.out)
    scoring = load_scoring(experiment, [setting], {BASE: command.checkpoint})
    if scoring.task.labels is None:
        raise InputError(f"{scoring.dataset.name} has no labels to compare scores by; choose another split")
    params, num_layers = scoring.base.params, scoring.model.config.stack.num_layers

    def outcomes(setting: Setting) -> np.ndarray:
        run = runner_for(setting.num_parts)
        return scoring.predictor(setting, run)(run.replicate(params))

    exact = outcomes(ONE_DEVICE)
    unit = UNITS[scoring.task.metrics[0]]
    with_unit = f"{unit} when it alone is compressed [95 %]"
    table = TextTable(
        (
            Column("block", 6),
            Column("cosine similarity", 17),
            Column("relative error", 14),
            Column(with_unit, len(with_unit)),
            Column("vs one device [95 %]", 20),
        )
    )
    print(table.header, flush=True)
    rows: list[dict] = []
    measured = [*enumerate(errors_of_blocks(scoring, params, setting)), (None, {})]
    for block, errors in Progress(measured, "blocks", unit="block"):
        compressed = setting.exchange if block is None else in_one_block(setting.exchange, num_layers, block)
        score = Score.of(scoring.task, outcomes(replace(setting, exchange=compressed)), exact)
        rows.append({"block": block, **errors, **score.to_json()})
        digits = 1 if score.metric.endswith("_percent") else 3
        cells = (
            "all" if block is None else str(block),
            *(f"{errors[name]:.4f}" if errors else "-" for name in ("cosine_similarity", "relative_error")),
            with_interval(score.score, score.score_ci95, digits),
            with_interval(score.difference_to_one_device, score.difference_ci95, digits, "+"),
        )
        Progress.write(table.line(cells))
    if not is_terminal():
        return
    content = files.results(scoring, rows, f"python -m eval.blocks {shlex.join(argv)}")
    content |= {"setting": str(setting), "one_device": Score.of(scoring.task, exact, None).to_json()}
    files.write_json(out, content)
    from eval.reporting import other_plots  # process 0 alone draws

    other_plots.blocks(out / "blocks.png", content)
    print(f"wrote {out}/results.json, blocks.png")


if __name__ == "__main__":
    run(main, sys.argv[1:])
