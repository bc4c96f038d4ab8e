"""Errors of the output of each block, when the parts exchange less than all rows."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eval.scoring.load import Scoring
from eval.scoring.variants import ONE_DEVICE
from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchanges, per_block
from prism_jax.exchange.baselines import AllGather
from prism_jax.exchange.setting import Setting
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.partition import Parts
from prism_jax.parallel.place import make_runner
from prism_jax.parallel.processes import several
from prism_jax.parallel.runner import PlacedRunner
from prism_jax.programs import block_outputs
from prism_jax.progress import Progress
from prism_jax.tasks.batches import scoring_batches
from prism_jax.tasks.predict import num_batches


def runner_for(num_parts: int) -> PlacedRunner:
    """Returns a runner with a device for each part if there are several processes; otherwise one with all parts on
    the same device.

    Raises:
      InputError: unless `num_parts` is 1 or the number of devices of all processes.
    """
    if several() and 1 < num_parts != jax.device_count():
        raise InputError(
            f"num_parts is {num_parts}; choose {jax.device_count()}, the number of devices of all processes"
        )
    return make_runner("mesh" if several() and num_parts > 1 else "one_device", num_parts)


def errors_of_blocks(scoring: Scoring, params: Any, setting: Setting) -> list[dict[str, float]]:
    """Compares the output of each block under an exchange with that on one device, over all real tokens.

    Returns:
      The mean cosine similarity and the mean relative error |x - exact| / |exact| of each block.
    """
    run, one_device, model = runner_for(setting.num_parts), on_one_device(1), scoring.model

    @partial(jax.jit, static_argnums=(0, 1))
    def outputs(exchange: Exchanges, run: PlacedRunner, params: Any, parts: Parts) -> tuple[jax.Array, ...]:
        return block_outputs(model, params, parts, exchange, run)

    @jax.jit
    def compare(
        approximate: tuple[jax.Array, ...], exact: tuple[jax.Array, ...], real_BN: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        sums = []
        for x, y in zip(approximate, exact, strict=True):
            x = x[:, : y.shape[1]]
            x_norm, y_norm = jnp.linalg.norm(x, axis=-1), jnp.linalg.norm(y, axis=-1)
            cosine = (x * y).sum(-1) / jnp.maximum(x_norm * y_norm, 1e-12)
            error = jnp.linalg.norm(x - y, axis=-1) / jnp.maximum(y_norm, 1e-12)
            sums.append(jnp.stack([(cosine * real_BN).sum(), (error * real_BN).sum()]))
        return jnp.stack(sums), real_BN.sum()

    placed, placed_whole = run.replicate(params), one_device.replicate(params)
    total, tokens = np.zeros((model.config.stack.num_layers, 2)), 0.0
    cut = (scoring.task, scoring.buckets, scoring.experiment.batch_size)
    for batch in Progress(scoring_batches(*cut), "errors", num_batches(*cut), unit="batch"):
        whole = one_device.split(batch.tokens)
        parts = run.split(batch.tokens)
        approximate = run.fetch(outputs(setting.exchange, run, placed, parts))
        exact = outputs(ONE_DEVICE.exchange, one_device, placed_whole, whole)
        sums, count = compare(approximate, exact, whole.real_BN * batch.weight_B[:, None])
        total, tokens = total + np.asarray(sums), tokens + float(count)
    return [{"cosine_similarity": cosine, "relative_error": error} for cosine, error in (total / tokens).tolist()]


def in_one_block(exchange: Exchanges, num_layers: int, block: int) -> Exchanges:
    """Returns the exchange in one block, and an all-gather in the others."""
    return tuple(of_block if i == block else AllGather() for i, of_block in enumerate(per_block(exchange, num_layers)))
