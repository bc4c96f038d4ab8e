"""Measures the errors of an exchange, block by block.

python -m eval.blocks configs/X.py [--exchange segment_means:4] [--num-parts 4] [--checkpoint RUN] [--limit N]
    [--out DIR] [flags]
    -> for each block, the error of its output, and the score when only this block is compressed;
       DIR/results.json, blocks.png
"""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from eval.reporting import files
from eval.reporting.tables import UNITS, with_interval
from eval.reporting.text_table import Column, TextTable
from eval.scoring.block_errors import errors_of_blocks, in_one_block, runner_for
from eval.scoring.load import Scoring, load_scoring
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
    check(experiment, setting)
    out = output_folder(command.out)
    scoring = load_scoring(experiment, [setting], {BASE: command.checkpoint})
    if scoring.task.labels is None:
        raise InputError(f"{scoring.dataset.name} has no labels to compare scores by; choose another split")
    exact = outcomes(scoring, ONE_DEVICE)
    rows = score_blocks(scoring, setting, exact)
    if not is_terminal():
        return
    content = files.results(scoring, rows, f"python -m eval.blocks {shlex.join(argv)}")
    content |= {"setting": str(setting), "one_device": files.finite(Score.of(scoring.task, exact, None).to_json())}
    files.write_json(out, content)
    from eval.reporting import other_plots  # process 0 alone draws

    other_plots.blocks(out / "blocks.png", content)
    print(f"wrote {out}/results.json, blocks.png")


def check(experiment: Experiment, setting: Setting) -> None:
    """Raises InputError if the blocks of a model can't be compressed one at a time in a setting."""
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


def outcomes(scoring: Scoring, setting: Setting) -> np.ndarray:
    """Returns the outcomes of all examples in a setting."""
    run = runner_for(setting.num_parts)
    return scoring.predictor(setting, run)(run.replicate(scoring.base.params))


def score_blocks(scoring: Scoring, setting: Setting, exact: np.ndarray) -> list[dict]:
    """Returns a record for each block, compressed alone, and one for all of them. Prints a line for each.

    Args:
      scoring: the model and the examples.
      setting: the exchange that compresses.
      exact: outcomes on one device.
    """
    num_layers = scoring.model.config.stack.num_layers
    table = table_of(UNITS[scoring.task.metrics[0]])
    print(table.header, flush=True)
    rows: list[dict] = []
    measured = [*enumerate(errors_of_blocks(scoring, scoring.base.params, setting)), (None, {})]
    for block, errors in Progress(measured, "blocks", unit="block"):
        compressed = setting.exchange if block is None else in_one_block(setting.exchange, num_layers, block)
        score = Score.of(scoring.task, outcomes(scoring, replace(setting, exchange=compressed)), exact)
        rows.append({"block": block, **errors, **score.to_json()})
        Progress.write(table.line(cells(block, errors, score)))
    return rows


def table_of(unit: str) -> TextTable:
    """Returns the empty table of the blocks, whose scores have a unit."""
    with_unit = f"{unit} when it alone is compressed [95 %]"
    return TextTable(
        (
            Column("block", 6),
            Column("cosine similarity", 17),
            Column("relative error", 14),
            Column(with_unit, len(with_unit)),
            Column("vs one device [95 %]", 20),
        )
    )


def cells(block: int | None, errors: Mapping[str, float], score: Score) -> tuple[str, ...]:
    """Returns a line of the table, for one block or all of them."""
    digits = 1 if score.metric.endswith("_percent") else 3
    return (
        "all" if block is None else str(block),
        *(f"{errors[name]:.4f}" if errors else "-" for name in ("cosine_similarity", "relative_error")),
        with_interval(score.score, score.score_ci95, digits),
        with_interval(score.difference_to_one_device, score.difference_ci95, digits, "+"),
    )


if __name__ == "__main__":
    run(main, sys.argv[1:])
