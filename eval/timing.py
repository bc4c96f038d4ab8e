"""Requests to one device and to several parts, timed in turn."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from eval.plan import BASE, ONE_DEVICE
from eval.rows import setting_row
from eval.scoring import Scoring
from prism_jax import cost
from prism_jax.exchange import AllGather
from prism_jax.forward import forward
from prism_jax.prediction import Setting
from prism_jax.processes import from_terminal
from prism_jax.runners import Runner, on_mesh

WARM_UP = 2
"""Requests before the first that counts."""
LEAST_ROUNDS = 3


@dataclass
class Request:
    """One batch of real examples through one setting.

    Attributes:
      scoring: model and examples.
      setting: the exchange and the number of parts.
      run: where they run.
      params: the weights, there already.
      batch: arrays of the terminal.
      seconds: what each round took.
      logits: of the last one.
    """

    scoring: Scoring
    setting: Setting
    run: Runner
    params: Any
    batch: dict[str, np.ndarray]
    program: jax.stages.Compiled | None = None
    seconds: list[float] = field(default_factory=list)
    logits: np.ndarray | None = None

    def __call__(self) -> float:
        """Runs once: split, blocks, join, logits. Returns the seconds it took on this process; all start together."""
        multihost_utils.sync_global_devices("request")
        started = time.perf_counter()
        if self.run.here:
            parts = self.run.split(self.batch)
            if self.program is None:
                self.program = self._compiled(parts)
            self.logits = self.run.fetch(self.program(self.params, parts))
        return time.perf_counter() - started

    def _compiled(self, parts) -> jax.stages.Compiled:
        model, exchange, run = self.scoring.model, self.setting.exchange, self.run
        program = jax.jit(lambda params, parts: forward(model, params, parts, exchange, run))
        return program.lower(self.params, parts).compile()


def requests(scoring: Scoring, settings: Sequence[Setting], batch_size: int) -> list[Request]:
    """The first examples, through each setting. Called on every process; the weights of the parts are shared by all settings."""
    rows = np.arange(batch_size) % len(scoring.task.lengths)
    batch, _ = scoring.task.arrays(rows, scoring.experiment.num_tokens, None)
    runs = {setting.num_parts: on_mesh(setting.num_parts) for setting in settings}
    params = {n: run.replicate(scoring.params[BASE]) if run.here else None for n, run in runs.items()}
    return [Request(scoring, one, runs[one.num_parts], params[one.num_parts], batch) for one in settings]


def rows(requests: Sequence[Request], rounds: int, seconds: float) -> list[dict]:
    """Times all of them in turn, forwards and backwards, and returns a row for each; the same on every process.

    Args:
      requests: the first is that of one device.
      rounds: at most.
      seconds: about how long it may take in all; there are three rounds at least.
    """
    for _ in range(WARM_UP):
        took = [request() for request in requests]
    rounds = from_terminal(lambda: max(LEAST_ROUNDS, min(rounds, int(seconds / sum(took)))))
    for i in range(rounds):
        for request in requests if i % 2 == 0 else reversed(requests):
            request.seconds.append(request())
    return from_terminal(lambda: [row(request, requests) for request in requests])


def row(request: Request, requests: Sequence[Request]) -> dict:
    """What one setting took beside the others, round by round, and what it costs by formula and by the compiled program."""
    scoring, setting, batch_size = request.scoring, request.setting, len(next(iter(request.batch.values())))
    model, num_tokens = scoring.model, scoring.experiment.num_tokens
    by_setting = {one.setting: one for one in requests}
    one_device, voltage = (
        by_setting[ONE_DEVICE],
        by_setting.get(Setting(AllGather(), max(r.setting.num_parts for r in requests))),
    )
    formula = cost.formula(model.config.stack, setting.exchange, setting.num_parts, num_tokens)
    assert request.program is not None
    assert request.logits is not None
    assert one_device.logits is not None
    read = cost.compiled(request.program, batch_size) if jax.default_backend() == "cpu" else None
    exact = one_device.logits
    lengths = scoring.task.lengths[np.arange(batch_size) % len(scoring.task.lengths)]
    return {
        **setting_row(setting, num_tokens, {num_tokens: 1}),
        "real_tokens_median": float(np.median(lengths)),
        "rounds": len(request.seconds),
        **spread("seconds", request.seconds),
        **spread("speedup", np.divide(one_device.seconds, request.seconds)),
        **(spread("speedup_to_all_gather", np.divide(voltage.seconds, request.seconds)) if voltage else {}),
        "logits_difference": float(np.abs(request.logits - exact).max() / np.abs(exact).max()),
        "flops_per_device": formula.flops * batch_size,
        "bytes_sent_per_device": formula.bytes_sent * batch_size,
        "bytes_sent_per_device_compiled": read.bytes_sent * batch_size if read else None,
        "bytes_split_per_device": cost.split_bytes(model, setting.num_parts, num_tokens) * batch_size,
        "bytes_join_per_device": cost.join_bytes(model, setting.num_parts, num_tokens) * batch_size,
        "collectives": formula.collectives,
        "collectives_compiled": read.collectives if read else None,
    }


def spread(name: str, values: Any) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    p10, median, p90 = np.percentile(values, [10, 50, 90])
    return {name: float(median), f"{name}_p10": float(p10), f"{name}_p90": float(p90)}


def table(rows: Sequence[dict]) -> str:
    """Rows of one link, N and batch size, for the terminal."""
    first = rows[0]
    lines = [
        f"N = {first['tokens']}, B = {first['batch_size']}, {first['link']}, {first['rounds']} rounds; median [p10, p90]",
        f"{'exchange':<20} {'wire':<8} {'parts':>5}  {'ms':<24} {'one device / it':<18} {'Voltage / it':<18} {'kB sent':>8}",
    ]
    for row in rows:
        name = row["exchange"] + (f":{row['num_segments']}" if row["num_segments"] else "")
        took = f"{1e3 * row['seconds']:.1f} [{1e3 * row['seconds_p10']:.1f}, {1e3 * row['seconds_p90']:.1f}]"
        ratios = [
            f"{row[x]:.2f} [{row[f'{x}_p10']:.2f}, {row[f'{x}_p90']:.2f}]" for x in ("speedup", "speedup_to_all_gather")
        ]
        lines.append(
            f"{name:<20} {row['wire']:<8} {row['num_parts']:>5}  {took:<24} {ratios[0]:<18} {ratios[1]:<18} "
            f"{row['bytes_sent_per_device'] / 1e3:>8.1f}"
        )
    return "\n".join(lines)
