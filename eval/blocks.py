"""Where an exchange hurts, block by block, on one device (the values are those of a mesh).

python -m eval.blocks configs/X.py [--exchange segment_means:4] [--num-parts 4] [--checkpoint RUN] [--limit N] [--out DIR] [flags]
    -> for each block, how far its output is from the exact one, and the score when this block alone is compressed;
       DIR/results.json, blocks.png
"""

import shlex
import sys
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval import figures, results
from eval.grid import BASE, ONE_DEVICE
from eval.rows import score_row
from eval.scoring import Scoring, load_scoring
from eval.tables import UNITS, with_interval
from prism_jax import config, flags
from prism_jax.command import output_folder, run
from prism_jax.errors import InputError
from prism_jax.exchange import AllGather, Exchanges, per_block
from prism_jax.forward import block_outputs
from prism_jax.loading import scoring_batches
from prism_jax.prediction import Predictor, Setting
from prism_jax.processes import refuse_several
from prism_jax.runners import on_one_device
from prism_jax.text import bucket_lengths


@dataclass(frozen=True)
class Blocks:
    experiment: config.Flat
    checkpoint: str | None = None
    """A run of train.finetune (its best checkpoint, or RUN@STEP), or of an adapter in PEFT's layout."""
    out: str = "runs/blocks"
    """Folder for the results."""


def departures(scoring: Scoring, params: Any, setting: Setting) -> list[dict]:
    """For each block, how far its output under an exchange is from that of one device: means over all real tokens.

    Returns:
      For each block its cosine similarity, and the relative error |x - exact| / |exact|.
    """
    run, one_device, model = on_one_device(setting.num_parts), on_one_device(1), scoring.model

    @jax.jit
    def of_batch(params, parts, whole, weight_B):
        real_BN = whole.real_BN * weight_B[:, None]
        sums = []
        for ours, exact in zip(
            block_outputs(model, params, parts, setting.exchange, run),
            block_outputs(model, params, whole, ONE_DEVICE.exchange, one_device),
            strict=True,
        ):
            x, y = ours[:, : whole.num_tokens], exact
            x_norm, y_norm = jnp.linalg.norm(x, axis=-1), jnp.linalg.norm(y, axis=-1)
            cosine = (x * y).sum(-1) / jnp.maximum(x_norm * y_norm, 1e-12)
            error = jnp.linalg.norm(x - y, axis=-1) / jnp.maximum(y_norm, 1e-12)
            sums.append(jnp.stack([(cosine * real_BN).sum(), (error * real_BN).sum()]))
        return jnp.stack(sums), real_BN.sum()

    total, tokens = np.zeros((model.config.stack.num_layers, 2)), 0.0
    batches = scoring_batches(scoring.task, scoring.buckets, scoring.experiment.batch_size)
    for batch in tqdm(batches, "departures", leave=False, unit="batch", disable=None):
        sums, count = of_batch(params, run.split(batch.tokens), one_device.split(batch.tokens), batch.weight_B)
        total, tokens = total + np.asarray(sums), tokens + float(count)
    return [{"cosine_similarity": cosine, "relative_error": error} for cosine, error in (total / tokens).tolist()]


def alone(exchange: Exchanges, num_layers: int, block: int) -> Exchanges:
    """An exchange in one block, and everything sent in the others."""
    return tuple(one if i == block else AllGather() for i, one in enumerate(per_block(exchange, num_layers)))


def main(argv: list[str]) -> None:
    command = flags.parse(Blocks, __doc__, argv)
    experiment, out = command.experiment, output_folder(command.out)
    setting = Setting(experiment.exchange, experiment.num_parts)
    refuse_several("eval.blocks runs")
    setting.check(bucket_lengths(experiment.buckets, experiment.num_tokens))
    scoring = load_scoring(experiment, [setting], {BASE: command.checkpoint})
    if scoring.task.labels is None:
        raise InputError(f"{scoring.dataset.name} has no labels to compare scores by; choose another split")
    params, num_layers = scoring.params[BASE], scoring.model.config.stack.num_layers

    def outcomes(setting: Setting) -> np.ndarray:
        one_device = on_one_device(setting.num_parts)
        return Predictor(scoring.model, scoring.task, setting, one_device, experiment.batch_size, scoring.buckets)(
            params
        )

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
        row = {"block": block, **departure} | score_row(
            scoring.task, outcomes(replace(setting, exchange=compressed)), exact
        )
        rows.append(row)
        digits = 1 if row["metric"].endswith("_percent") else 3
        cells = [
            "all" if block is None else str(block),
            *(f"{departure[name]:.4f}" if departure else "-" for name in ("cosine_similarity", "relative_error")),
            with_interval(row["score"], row["score_ci95"], digits),
            with_interval(row["difference_to_one_device"], row["difference_ci95"], digits, "+"),
        ]
        tqdm.write("".join(text.ljust(width) for text, width in zip(cells, widths, strict=True)))
        content = results.results(scoring, rows, f"python -m eval.blocks {shlex.join(argv)}")
        content |= {"setting": str(setting), "one_device": score_row(scoring.task, exact, None)}
        results.write_json(out, content)
    figures.blocks(out / "blocks.png", content)
    print(f"wrote {out}/results.json, blocks.png")


if __name__ == "__main__":
    run(main, sys.argv[1:])
