"""Measures all tables of `eval.latency`, on all processes together, and predicts each link from the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import jax
import numpy as np

from eval.links import ladder, shaped
from eval.reporting import files
from eval.reporting.records import read_calibration
from eval.scoring.load import Scoring
from eval.scoring.variants import ONE_DEVICE, impossible_reason
from eval.sweeping.grid import grid_of_exchanges
from eval.timing import latency_model, part_alone, requests
from eval.timing.measurements import HOSTS, LinkFields, Measurements
from prism_jax.errors import RunError
from prism_jax.exchange.baselines import AllGather
from prism_jax.exchange.setting import Setting
from prism_jax.parallel.processes import from_terminal
from prism_jax.progress import Progress, say

SOURCES = (
    *("eval.timing.requests", "eval.timing.part_alone", "eval.timing.part_program"),
    *("eval.links.shaped", "eval.links.ladder", "eval.links.relay", "eval.launch", "eval.launching.rank"),
)
"""Modules that affect latency. Times measured by another version of them are not reused."""

LOWEST = 0.7
"""Least share of the requested rate that a ladder may show. Headers, the bucket and the growth of TCP's window take the
rest: 0.71 to 0.86 of 200 Mbit/s were seen, the least with a delay."""

LADDERS = 5
"""Number of times that a shaped link is measured, until it has its rate."""


@dataclass(frozen=True)
class Session:
    """Tables of requests: one for each link, N and B.

    Attributes:
      scoring: model and examples.
      settings: settings that take turns. The first is one device, the second Voltage.
      links: links between the processes.
      lengths: values of N.
      batch_sizes: values of B.
      rounds: largest number of times that each setting is timed.
      seconds: approximate limit of the time of a table.
      parts_per_core: parts that share a core, and compute in turn.
    """

    scoring: Scoring
    settings: Sequence[Setting]
    links: Sequence[LinkFields]
    lengths: Sequence[int]
    batch_sizes: Sequence[int]
    rounds: int
    seconds: float
    parts_per_core: int

    def run(self, measurements: Measurements) -> None:
        """Measures the missing tables, and prints all. Called on every process."""
        places = requests.places(self.scoring, self.settings)
        prepared: dict[tuple[int, int], list[requests.Request]] = {}
        shaped_link: LinkFields | None = None
        tables = list(product(self.links, self.lengths, self.batch_sizes))
        for link, num_tokens, batch_size in Progress(tables, "tables", unit="table"):
            if not measurements.has(link, num_tokens, batch_size, self.settings):
                if link.rate_bits_per_second and link != shaped_link:
                    measurements.put_ladder(link, *shape_and_verify(link))
                    shaped_link = link
                elif link.link == HOSTS and not measurements.has_ladder(link):
                    measurements.put_ladder(link, *measure(link))
                scoring = self.scoring.at(num_tokens)
                if (num_tokens, batch_size) not in prepared:
                    say(f"compiling for N = {num_tokens}, B = {batch_size}")
                    created = requests.requests(scoring, self.settings, batch_size, places)
                    prepared[num_tokens, batch_size] = created
                time_parts_alone(scoring, batch_size, measurements)
                timed = requests.time_in_turn(prepared[num_tokens, batch_size], self.rounds, self.seconds)
                rows = [row | {"parts_per_core": min(self.parts_per_core, row["num_parts"])} for row in timed]
                measurements.put(link, num_tokens, batch_size, rows)
                measurements.save()
            Progress.write(requests.table(measurements.table(link, num_tokens, batch_size)))


def shape_and_verify(link: LinkFields) -> tuple[dict[str, float], list[dict]]:
    """Shapes the link to its rate, and measures it. Called on every process.

    Returns:
      As `measure`.

    Raises:
      RunError: if the machine can't hold the rate.
    """
    requested = link.rate_bits_per_second
    assert requested is not None
    shaped.shape(f"{requested:.0f}bit")
    for _ in range(LADDERS):  # another program may be busy for a moment
        measured, rungs = measure(link)
        if LOWEST < measured["rate_bits_per_second"] / requested < 1.1:
            return measured, rungs
    raise RunError(
        f"{link.link}: this machine can't hold that rate, {LADDERS} ladders show "
        f"{measured['rate_bits_per_second'] / 1e6:.1f} Mbit/s and the like; choose a lower one"
    )


def measure(link: LinkFields) -> tuple[dict[str, float], list[dict]]:
    """Measures the link between processes 0 and 1. Called on every process.

    Returns:
      The results of its ladder, and the ladder, see `ladder.measured` and `ladder.climb`.
    """
    climbed = ladder.climb()
    rungs = from_terminal(lambda: climbed)
    measured = ladder.measured(rungs)
    print(f"{link.link}: measured {measured['rate_bits_per_second'] / 1e6:.1f} Mbit/s, {measured['rtt_ms']:.2f} ms")
    return measured, rungs


def time_parts_alone(scoring: Scoring, batch_size: int, measurements: Measurements) -> None:
    """Times one part of each setting on the core of process 0 while the other processes wait. Skips stored times."""
    settings, num_tokens = settings_alone(scoring), scoring.experiment.num_tokens
    if not measurements.has_parts_alone(num_tokens, batch_size, settings):
        timed = from_terminal(lambda: part_alone.measure(scoring, settings, batch_size))
        measurements.put_parts_alone(num_tokens, batch_size, timed)


def settings_alone(scoring: Scoring) -> list[Setting]:
    """Returns the settings for timing a part alone: one device, and all exchanges on as many parts as there are
    devices.

    For `eval.plan`, the experiment's other numbers of parts are included where they can run.
    """
    experiment = scoring.experiment
    several_parts = dict.fromkeys(
        (jax.device_count(), *(num_parts for num_parts in experiment.grid.parts if num_parts > 1))
    )
    return [ONE_DEVICE] + [
        Setting(exchange, num_parts)
        for num_parts in several_parts
        for exchange in dict.fromkeys((AllGather(), *grid_of_exchanges(experiment.grid)))
        if not impossible_reason(Setting(exchange, num_parts), (experiment.num_tokens,))
    ]


def summarise(out: Path, command: str) -> None:
    """Predicts the requests of each shaped link from the other links, draws the figure, and writes results to `out`."""
    content = read_calibration(out) | {"command": command}
    rows = [row for row in content["rows"] if row["rate_bits_per_second"]]
    if rows:
        latency_model.predict_each_from_other_links(rows)
        errors = latency_model.errors(rows)
        if len(errors):
            median, p90 = np.percentile(errors, [50, 90])
            print(
                f"predicted from the other links: off by {median:.1%} in the median, {p90:.1%} at p90, "
                f"of {len(errors)} requests"
            )
        from eval.reporting import other_plots

        other_plots.latency(out / "latency.png", content | {"rows": rows})
    files.write_json(out, content)
    print(f"wrote {out}/results.json" + (", latency.png" if rows else ""))
