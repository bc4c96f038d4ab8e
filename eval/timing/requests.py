"""Times requests to one device and to several parts, in turn."""

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
from prism_jax.parallel.mesh import OnMesh, on_mesh
from prism_jax.parallel.overlapped import Gather, by_messages
from prism_jax.parallel.partition import Parts
from prism_jax.parallel.processes import barrier, from_terminal
from prism_jax.parallel.runner import PlacedRunner
from prism_jax.programs import Overlapped, overlapped
from prism_jax.progress import Progress

WARM_UP = 2
"""Number of uncounted requests at the start."""
LEAST_ROUNDS = 3

HEAD_START = 0.03
"""Seconds that process 0 waits so that the other processes are ready. More than half of the longest round trip of
interest."""


@dataclass
class Request:
    """One batch of real examples in one setting.

    Attributes:
      scoring: model and examples.
      setting: the exchange and the number of parts.
      run: the runner.
      params: the parameters, already on the devices.
      batch: the arrays of process 0.
      seconds: duration of each round.
      counted: bytes that process 0's end of a shaped link sent and received in each round; empty elsewhere.
      logits: logits of the last round.
    """

    scoring: Scoring
    setting: Setting
    run: PlacedRunner
    params: Any
    batch: dict[str, np.ndarray]
    program: jax.stages.Compiled | Overlapped | None = None
    seconds: list[float] = field(default_factory=list)
    counted: list[tuple[int, int]] = field(default_factory=list)
    logits: np.ndarray | None = None

    def __call__(self) -> float:
        """Runs a request once: cut, blocks, join, logits. Records and returns the seconds on this process.

        The other processes already wait for the request, as servers do. Processes leave the barrier at most half a
        round trip apart.
        """
        barrier("request")
        if jax.process_index() == 0:
            time.sleep(HEAD_START)
        before, started = shaped.counters(), time.perf_counter()
        if self.run.here:
            parts = self.run.split(self.batch)
            if self.program is None:
                self.program = self._made(parts)
            self.logits = self.run.fetch(self.program(self.params, parts))
        self.seconds.append(time.perf_counter() - started)
        if before and (after := shaped.counters()):
            self.counted.append((after[0] - before[0], after[1] - before[1]))
        return self.seconds[-1]

    def forget(self) -> None:
        """Drops the recorded times and counts."""
        self.seconds.clear()
        self.counted.clear()

    def _made(self, parts: Parts) -> jax.stages.Compiled | Overlapped:
        """Returns the program. A collective is worth one of its own if it can be hidden, or go as messages."""
        model, exchange, run = self.scoring.model, self.setting.exchange, self.run
        if isinstance(run, OnMesh) and (self.cost.collectives_hidden or by_messages(run.mesh)):
            return overlapped(model, exchange, run)
        program = jax.jit(lambda params, parts: forward(model, params, parts, exchange, run))
        return program.lower(self.params, parts).compile()

    @property
    def cost(self) -> cost.Cost:
        """Cost of one example, by formula."""
        model, num_tokens = self.scoring.model, self.scoring.experiment.num_tokens
        return cost.formula(
            model.config.stack, self.setting.exchange, self.setting.num_parts, num_tokens, model.extra_rows
        )


Places = dict[int, tuple[PlacedRunner, Any]]
"""Runners by number of parts, with the parameters already on their devices."""


def places(scoring: Scoring, settings: Sequence[Setting]) -> Places:
    """Returns the runners of the settings. Called on every process."""
    runs = {num_parts: on_mesh(num_parts) for num_parts in dict.fromkeys(setting.num_parts for setting in settings)}
    return {n: (run, run.replicate(scoring.base.params) if run.here else None) for n, run in runs.items()}


def requests(scoring: Scoring, settings: Sequence[Setting], batch_size: int, places: Places) -> list[Request]:
    """Returns requests with the first examples, one for each setting. Called on every process."""
    index = np.arange(batch_size) % len(scoring.task.lengths)
    batch, _ = scoring.task.arrays(index, scoring.experiment.num_tokens, None)
    return [Request(scoring, setting, *places[setting.num_parts], batch) for setting in settings]


def time_in_turn(requests: Sequence[Request], rounds: int, seconds: float) -> list[dict]:
    """Times all requests in turn, forwards and backwards. Returns a record for each, the same on every process.

    Args:
      requests: the first is one device, the second Voltage.
      rounds: largest number of rounds.
      seconds: approximate limit of the total time. There are at least three rounds.
    """
    for _ in range(WARM_UP):
        last_seconds = [request() for request in requests]
    rounds = from_terminal(lambda: max(LEAST_ROUNDS, min(rounds, int(seconds / sum(last_seconds)))))
    for request in requests:
        request.forget()
    for i in Progress(range(rounds), "requests", unit="round"):
        for request in requests if i % 2 == 0 else reversed(requests):
            request()
    return from_terminal(lambda: [record_of(request, requests) for request in requests])


def record_of(request: Request, requests: Sequence[Request]) -> dict:
    """Returns the record of a setting: its time compared with the others, round by round, and its cost by formula and
    from the compiled program."""
    scoring, setting, batch_size = request.scoring, request.setting, len(next(iter(request.batch.values())))
    num_tokens = scoring.experiment.num_tokens
    one_device, voltage = requests[0], requests[1]
    assert request.program is not None
    assert request.logits is not None
    assert one_device.logits is not None
    launches = request.program.launches if isinstance(request.program, Overlapped) else [request.program]
    traced = [_traffic(launch, batch_size) for launch in launches] if jax.default_backend() == "cpu" else None
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
        "flops_per_device": request.cost.flops * batch_size,
        **traffic(scoring, setting, batch_size),
        "bytes_sent_per_device_compiled": sum(sent for sent, _ in traced) if traced else None,
        "bytes_counted_sent": sent,
        "bytes_counted_received": received,
        "collectives_compiled": sum(number for _, number in traced) if traced else None,
    }


def _traffic(launch: jax.stages.Compiled | Gather, batch_size: int) -> tuple[float, int]:
    """Returns the bytes that a device sends in a program or a gather, up to the join, and the number of collectives."""
    if isinstance(launch, Gather):
        return launch.bytes_sent, 1
    compiled = cost.compiled(launch, batch_size)
    return compiled.bytes_sent * batch_size, compiled.collectives


def spread(name: str, values: Any) -> dict[str, float]:
    """Returns median, 10th and 90th percentile, in six digits: a clock gives no more."""
    p10, median, p90 = (float(f"{value:.6g}") for value in np.percentile(values, [10, 50, 90]))
    return {name: median, f"{name}_p10": p10, f"{name}_p90": p90}


TABLE = TextTable(
    (
        *(Column("exchange", 20), Column("wire", 8), Column("parts", 5), Column("ms [p10, p90]", 26)),
        *(Column("one device / it", 18), Column("Voltage / it", 18), Column("kB sent", 9), Column("kB counted", 10)),
    )
)


def table(rows: Sequence[dict]) -> str:
    """Returns the records of one link, N and batch size as a text table."""
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
