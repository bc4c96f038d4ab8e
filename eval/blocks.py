"""Where an exchange hurts, block by block.

python -m eval.blocks configs/X.py [--exchange segment_means:4] [--num-parts 4] [--checkpoint RUN] [--limit N] [--out DIR] [flags]
    -> for each block, how far its output is from the exact one, and the score when this block alone is compressed;
       DIR/results.json, blocks.png
"""

import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

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
from prism_jax.processes import is_terminal, several
from prism_jax.runners import Runner, on_mesh, on_one_device
from prism_jax.text import bucket_lengths


@dataclass(frozen=True)
class Blocks:
    UNUSED: ClassVar = flags.ONE_SETTING

    experiment: config.Flat
    checkpoint: str | None = None
    """A run of train.finetune (its best checkpoint, or RUN@STEP), or of an adapter in PEFT's layout."""
    out: str = "runs/blocks"
    """Folder for the results."""


def runner(num_parts: int) -> Runner:
    """Where the parts run: each on its own device if there are several processes, else inside one."""
    if several() and 1 < num_parts != jax.device_count():
        raise InputError(
            f"num_parts is {num_parts}; choose {jax.device_count()}, the number of devices of all processes"
        )
    return on_mesh(num_parts) if several() and num_parts > 1 else on_one_device(num_parts)


def departures(scoring: Scoring, params: Any, setting: Setting) -> list[dict]:
    """For each block, how far its output under an exchange is from that of one device: means over all real tokens.

    Returns:
      For each block its cosine similarity, and the relative error |x - exact| / |exact|.
    """
    run, one_device, model = runner(setting.num_parts), on_one_device(1), scoring.model

    @partial(jax.jit, static_argnums=(0, 1))
    def outputs(exchange, run, params, parts):
        return block_outputs(model, params, parts, exchange, run)

    @jax.jit
    def compare(several, exact, real_BN):
        sums = []
        for x, y in zip(several, exact, strict=True):
            x = x[:, : y.shape[1]]
            x_norm, y_norm = jnp.linalg.norm(x, axis=-1), jnp.linalg.norm(y, axis=-1)
            cosine = (x * y).sum(-1) / jnp.maximum(x_norm * y_norm, 1e-12)
            error = jnp.linalg.norm(x - y, axis=-1) / jnp.maximum(y_norm, 1e-12)
            sums.append(jnp.stack([(cosine * real_BN).sum(), (error * real_BN).sum()]))
        return jnp.stack(sums), real_BN.sum()

    placed, total, tokens = run.replicate(params), np.zeros((model.config.stack.num_layers, 2)), 0.0
    batches = scoring_batches(scoring.task, scoring.buckets, scoring.experiment.batch_size)
    for batch in tqdm(batches, "departures", leave=False, unit="batch", disable=None):
        whole = one_device.split(batch.tokens)
        ours = run.fetch(outputs(setting.exchange, run, placed, run.split(batch.tokens)))
        exact = outputs(ONE_DEVICE.exchange, one_device, params, whole)
        sums, count = compare(ours, exact, whole.real_BN * batch.weight_B[:, None])
        total, tokens = total + np.asarray(sums), tokens + float(count)
    return [{"cosine_similarity": cosine, "relative_error": error} for cosine, error in (total / tokens).tolist()]


def alone(exchange: Exchanges, num_layers: int, block: int) -> Exchanges:
    """An exchange in one block, and everything sent in the others."""
    return tuple(one if i == block else AllGather() for i, one in enumerate(per_block(exchange, num_layers)))


def main(argv: list[str]) -> None:
    command = flags.parse(Blocks, __doc__, argv)
    experiment, out = command.experiment, output_folder(command.out)
    setting = Setting(experiment.exchange, experiment.num_parts)
    runner(setting.num_parts)
    setting.check(bucket_lengths(experiment.buckets, experiment.num_tokens))
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
    if not is_terminal():
        return
    figures.blocks(out / "blocks.png", content)
    print(f"wrote {out}/results.json, blocks.png")


if __name__ == "__main__":
    run(main, sys.argv[1:])
