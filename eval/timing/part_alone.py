"""Times one part of a model alone on this process's core, as if the other parts existed. Nothing is sent."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eval.scoring.load import Scoring
from prism_jax import cost
from prism_jax.exchange.base import Exchanges
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.forward import forward
from prism_jax.models.base import Model
from prism_jax.parallel.one_device import alone
from prism_jax.parallel.partition import Layout, Parts, split
from prism_jax.parallel.runner import PartFunction, Runner
from prism_jax.progress import Progress

ROUNDS, AT_MOST_SECONDS = 9, 20.0
"""Largest number of rounds of a setting, and seconds for each setting after which the rounds end."""


@dataclass(frozen=True)
class FirstPart:
    """A `Runner` that runs only the first part, see `alone`. Its rows replace those of the other parts."""

    num_parts: int

    def split(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Parts:
        return split(batch, self.num_parts, key)

    def __call__(self, function: PartFunction, params: Any, parts: Parts) -> jax.Array:
        return self.each(function, params, parts)

    def each(self, function: PartFunction, params: Any, parts: Parts) -> Any:
        tokens = jax.tree.map(lambda x: x[:, : x.shape[1] // self.num_parts], parts.tokens)
        layout = Layout(jnp.int32(0), parts.real_BN, parts.keys_B, self.num_parts, parts.num_tokens)
        rows = alone(function, self.num_parts)(params, tokens, layout)
        return jax.tree.map(lambda x: jnp.tile(x, (1, self.num_parts, *[1] * (x.ndim - 2))), rows)

    def one_by_one(self, function: Callable[[Any, Any], Any], params: Any, batch: Any) -> Any:
        return jax.lax.map(partial(function, params), batch)


def program(model: Model, exchange: Exchanges, run: Runner, params: Any, parts: Parts) -> jax.stages.Compiled:
    """Compiles `forward` for arrays on a single device."""

    def answer(params: Any, parts: Parts) -> Any:
        return forward(model, params, parts, exchange, run)

    return jax.jit(answer).lower(params, parts).compile()


def traffic(scoring: Scoring, setting: Setting, batch_size: int) -> dict:
    """Returns the traffic of a device in a request, by formula."""
    model, num_tokens, num_parts = scoring.model, scoring.experiment.num_tokens, setting.num_parts
    formula = cost.formula(model.config.stack, setting.exchange, num_parts, num_tokens, model.extra_rows)
    return {
        "bytes_sent_per_device": formula.bytes_sent * batch_size,
        "bytes_split_per_device": cost.split_bytes(model, num_parts, num_tokens) * batch_size,
        "bytes_join_per_device": cost.join_bytes(model, num_parts, num_tokens) * batch_size,
        "collectives": formula.collectives,
        "collectives_hidden": formula.collectives_hidden,
        "share_behind_hidden": formula.share_behind_hidden,
    }


def measure(scoring: Scoring, settings: Sequence[Setting], batch_size: int) -> list[dict]:
    """Times one part of each setting, including the head, on this process's device. The settings take turns. Returns a
    record for each, with the median time and the traffic."""
    model, params = scoring.model, jax.device_put(scoring.base.params, jax.local_devices()[0])
    batch, _ = scoring.task.arrays(
        np.arange(batch_size) % len(scoring.task.lengths), scoring.experiment.num_tokens, None
    )
    programs = []
    for setting in settings:
        run = FirstPart(setting.num_parts)
        parts = jax.device_put(run.split(batch), jax.local_devices()[0])
        compiled = program(model, setting.exchange, run, params, parts)
        jax.block_until_ready(compiled(params, parts))
        programs.append((compiled, parts))
    seconds = np.zeros((0, len(settings)))
    for _ in Progress(range(ROUNDS), "one part alone", unit="round"):
        round_seconds = []
        for compiled, parts in programs:
            started = time.perf_counter()
            jax.block_until_ready(compiled(params, parts))
            round_seconds.append(time.perf_counter() - started)
        seconds = np.vstack([seconds, round_seconds])
        if len(seconds) >= 2 and seconds.sum() >= AT_MOST_SECONDS * len(settings):
            break
    return [
        {
            "setting": text_of(setting.exchange),
            "num_parts": setting.num_parts,
            "tokens": scoring.experiment.num_tokens,
            "batch_size": batch_size,
            "seconds": float(f"{median:.6g}"),
            **traffic(scoring, setting, batch_size),
        }
        for setting, median in zip(settings, np.median(seconds, axis=0), strict=True)
    ]
