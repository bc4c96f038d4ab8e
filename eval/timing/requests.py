"""Requests to one device and to several parts, timed in turn."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from eval.links import shaped
from eval.reporting.text_table import Column, TextTable
from eval.scoring.load import Scoring
from eval.scoring.rows import SettingFields
from eval.timing.part_alone import traffic
from prism_jax import cost
from prism_jax.exchange.setting import Setting
from prism_jax.forward import forward
from prism_jax.parallel.mesh import on_mesh
from prism_jax.parallel.partition import Parts
from prism_jax.parallel.processes import barrier, from_terminal
from prism_jax.parallel.runner import PlacedRunner

WARM_UP = 2
"""Requests before the first that counts."""
LEAST_ROUNDS = 3

HEAD_START = 0.03
"""Seconds for which the terminal lets the others go ahead; more than half of the longest round trip of interest."""


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
      counted: bytes that the terminal's end of a shaped link sent and received in each round; empty elsewhere.
      logits: of the last one.
    """

    scoring: Scoring
    setting: Setting
    run: PlacedRunner
    params: Any
    batch: dict[str, np.ndarray]
    program: jax.stages.Compiled | None = None
    seconds: list[float] = field(default_factory=list)
    counted: list[tuple[int, int]] = field(default_factory=list)
    logits: np.ndarray | None = None

    def __call__(self) -> float:
        """Runs once: split, blocks, join, logits. Notes and returns the seconds it took on this process.

        The others wait for it already, as servers do: none leaves the barrier more than half a round trip
        after another.
        """
        barrier("request")
        if jax.process_index() == 0:
            time.sleep(HEAD_START)
        before, started = shaped.counters(), time.perf_counter()
        if self.run.here:
            parts = self.run.split(self.batch)
            if self.program is None:
                self.program = self._compiled(parts)
            self.logits = self.run.fetch(self.program(self.params, parts))
        self.seconds.append(time.perf_counter() - started)
        if before and (after := shaped.counters()):
            self.counted.append((after[0] - before[0], after[1] - before[1]))
        return self.seconds[-1]

    def forget(self) -> None:
        """Drops what was noted so far."""
        self.seconds.clear()
        self.counted.clear()

    def _compiled(self, parts: Parts) -> jax.stages.Compiled:
        model, exchange, run = self.scoring.model, self.setting.exchange, self.run
        program = jax.jit(lambda params, parts: forward(model, params, parts, exchange, run))
        return program.lower(self.params, parts).compile()


Places = dict[int, tuple[PlacedRunner, Any]]
"""By number of parts, where they run, and the weights, there already."""


def places(scoring: Scoring, settings: Sequence[Setting]) -> Places:
    """Where the settings run. Called on every process."""
    runs = {num_parts: on_mesh(num_parts) for num_parts in dict.fromkeys(one.num_parts for one in settings)}
    return {n: (run, run.replicate(scoring.base.params) if run.here else None) for n, run in runs.items()}


def requests(scoring: Scoring, settings: Sequence[Setting], batch_size: int, places: Places) -> list[Request]:
    """The first examples, through each setting. Called on every process."""
    rows = np.arange(batch_size) % len(scoring.task.lengths)
    batch, _ = scoring.task.arrays(rows, scoring.experiment.num_tokens, None)
    return [Request(scoring, one, *places[one.num_parts], batch) for one in settings]


def rows(requests: Sequence[Request], rounds: int, seconds: float) -> list[dict]:
    """Times all of them in turn, forwards and backwards, and returns a row for each; the same on every process.

    Args:
      requests: the first is that of one device, the second Voltage's.
      rounds: at most.
      seconds: about how long it may take in all; there are three rounds at least.
    """
    for _ in range(WARM_UP):
        took = [request() for request in requests]
    rounds = from_terminal(lambda: max(LEAST_ROUNDS, min(rounds, int(seconds / sum(took)))))
    for request in requests:
        request.forget()
    for i in range(rounds):
        for request in requests if i % 2 == 0 else reversed(requests):
            request()
    return from_terminal(lambda: [row(request, requests) for request in requests])


def row(request: Request, requests: Sequence[Request]) -> dict:
    """What one setting took beside the others, round by round,
    and what it costs by formula and by the compiled program."""
    scoring, setting, batch_size = request.scoring, request.setting, len(next(iter(request.batch.values())))
    model, num_tokens, num_parts = scoring.model, scoring.experiment.num_tokens, setting.num_parts
    one_device, voltage = requests[0], requests[1]
    formula = cost.formula(model.config.stack, setting.exchange, num_parts, num_tokens, model.extra_rows)
    assert request.program is not None
    assert request.logits is not None
    assert one_device.logits is not None
    read = cost.compiled(request.program, batch_size) if jax.default_backend() == "cpu" else None
    sent, received = np.median(request.counted, axis=0).tolist() if request.counted else (None, None)
    lengths = scoring.task.lengths[np.arange(batch_size) % len(scoring.task.lengths)]
    return {
        **SettingFields.of(setting, num_tokens, {num_tokens: 1}).to_json(),
        "batch_size": batch_size,
        "real_tokens_median": float(np.median(lengths)),
        "rounds": len(request.seconds),
        **spread("seconds", request.seconds),
        **spread("speedup", np.divide(one_device.seconds, request.seconds)),
        **spread("speedup_to_all_gather", np.divide(voltage.seconds, request.seconds)),
        "logits_difference": float(np.abs(request.logits - one_device.logits).max() / np.abs(one_device.logits).max()),
        "flops_per_device": formula.flops * batch_size,
        **traffic(scoring, setting, batch_size),
        "bytes_sent_per_device_compiled": read.bytes_sent * batch_size if read else None,
        "bytes_counted_sent": sent,
        "bytes_counted_received": received,
        "collectives_compiled": read.collectives if read else None,
    }


def spread(name: str, values: Any) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    p10, median, p90 = np.percentile(values, [10, 50, 90])
    return {name: float(median), f"{name}_p10": float(p10), f"{name}_p90": float(p90)}


TABLE = TextTable(
    (
        *(Column("exchange", 20), Column("wire", 8), Column("parts", 5), Column("ms [p10, p90]", 26)),
        *(Column("one device / it", 18), Column("Voltage / it", 18), Column("kB sent", 9), Column("kB counted", 10)),
    )
)


def table(rows: Sequence[dict]) -> str:
    """Rows of one link, N and batch size, for the terminal."""
    first = rows[0]
    title = f"N = {first['tokens']}, B = {first['batch_size']}, {first['link']}, {first['rounds']} rounds; medians"
    cells = []
    for row in rows:
        counted = row["bytes_counted_sent"]
        texts = (
            row["setting"].removesuffix(f":{row['wire']}"),
            row["wire"],
            str(row["num_parts"]),
            f"{1e3 * row['seconds']:.1f} [{1e3 * row['seconds_p10']:.1f}, {1e3 * row['seconds_p90']:.1f}]",
            *(
                f"{row[x]:.2f} [{row[f'{x}_p10']:.2f}, {row[f'{x}_p90']:.2f}]"
                for x in ("speedup", "speedup_to_all_gather")
            ),
            f"{row['bytes_sent_per_device'] / 1e3:.1f}",
            "-" if counted is None else f"{counted / 1e3:.1f}",
        )
        cells.append(texts)
    return f"{title}\n{TABLE.text(cells)}"
