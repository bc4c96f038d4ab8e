"""Latency on real processes, one core each: from the input on process 0 to the logits on process 0.

python -m eval.latency configs/X.py -n 2 [--segments 1 10] [--exchanges EXCHANGE ...] [--wires float32 int8] [--batch-sizes 1 8]
        [--lengths 128 256] [--rates 10mbit 50mbit 200mbit] [--rtts 0 5 20] [--base RUN] [--out DIR] [flags]
    -> a table for each link, N and B as it is there; DIR/results.json, latency.png; the same command goes on where it was stopped

One device (process 0 alone, on its core), Voltage and the exchanges of the config take turns, request by request. Without
--rates the processes talk over loopback; with it, two of them are joined by a link of that rate and round-trip time (ms). On
several hosts, leave -n out and start it on each with --coordinator.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from msgspec import Meta

from eval.launch import commands, free_port, own_cores, supervise
from eval.links import shaped
from eval.reporting import files, other_plots
from eval.reporting.records import FILE, read_calibration
from eval.scoring.measure import Scoring, check_runs, load_scoring
from eval.scoring.variants import BASE, ONE_DEVICE
from eval.sweeping import store
from eval.sweeping.grid import grid_of_exchanges, why_impossible
from eval.timing import latency_model, part_alone, requests
from prism_jax.assets import hub
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.cli.flags import Flat
from prism_jax.errors import InputError, RunError
from prism_jax.exchange.base import check
from prism_jax.exchange.baselines import AllGather
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.experiments.build import load_data
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Preparation
from prism_jax.parallel.processes import from_terminal, is_terminal, several
from prism_jax.records import BatchSize, Count, Positive
from prism_jax.user_paths import UserPath

RTTS = "one or more of 0 to 1000 milliseconds"
Rtt = Annotated[float, Meta(ge=0, le=1000, description=RTTS)]
LOOPBACK, HOSTS = "loopback", "hosts"


@dataclass(frozen=True)
class Latency:
    experiment: Flat[Experiment]
    evaluation: Flat[Evaluation]
    grid: Flat[Grid]
    training: Preparation
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",), metavar="P")] = None
    """Processes to start on this machine, one part and one core each; without it, those that --coordinator brings together."""
    batch_sizes: Annotated[tuple[BatchSize, ...], Meta(min_length=1, description="one or more")] = (1, 8)
    """B, examples of a request."""
    rates: tuple[str, ...] = ()
    """Rates of a shaped link between two processes, such as 50mbit; without any, loopback."""
    rtts: Annotated[tuple[Rtt, ...], Meta(min_length=1, description=RTTS)] = (0.0,)
    """Round-trip times of the shaped link in milliseconds, on top of its own."""
    rounds: Count = 20
    """How often each setting is timed at most, in turn."""
    seconds: Positive = 60.0
    """After about this time a table ends, with three rounds at least."""
    base: UserPath | None = None
    """A run of train.finetune (RUN or RUN@STEP) or an adapter in PEFT's layout, in place of the config's weights, of which
    training.fresh is drawn at random: latency does not hang on values."""
    out: UserPath | None = None
    """Folder for the results; runs/NAME/latency by default, NAME being the config's."""

    def check(self) -> None:
        """Raises InputError for a value out of its range."""
        if self.n is not None and self.n < 2:
            raise InputError(f"-n is {self.n}; choose 2 processes or more, since one device is measured beside them")
        for rate in self.rates:
            shaped.rate_of(rate)
        if any(self.rtts) and not self.rates:
            raise InputError("a round-trip time goes with a rate; give --rates too, such as 200mbit")
        if self.rates and self.n not in (None, 2):
            raise InputError(
                f"a shaped link joins two processes, but -n is {self.n}; choose -n 2, or leave --rates out"
            )

    def settings(self, num_parts: int) -> list[Setting]:
        """What takes turns: one device, Voltage, then what the config lists.

        Raises:
          InputError: for an exchange that can't run.
        """
        for num_tokens in self.lengths:
            for exchange in grid_of_exchanges(self.grid):
                check(exchange, num_tokens, num_parts)
        found = [ONE_DEVICE, Setting(AllGather(), num_parts)]
        return list(dict.fromkeys(found + [Setting(one, num_parts) for one in grid_of_exchanges(self.grid)]))

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.grid.lengths or (self.experiment.num_tokens,)))

    @property
    def links(self) -> list[dict]:
        """What a row says of its link."""
        if not self.rates:
            link = HOSTS if self.n is None else LOOPBACK
            return [{"link": link, "rate_bits_per_second": None, "rtt_ms": None}]
        return [
            {"link": f"{rate}, rtt {rtt:g} ms", "rate_bits_per_second": shaped.rate_of(rate), "rtt_ms": rtt}
            for rtt in dict.fromkeys(self.rtts)
            for rate in dict.fromkeys(self.rates)
        ]


def main(argv: list[str]) -> None:
    command = flags.parse(Latency, __doc__, argv)
    command.check()
    where = command.out or f"runs/{Path(argv[0]).stem}/latency"
    if several():
        measure(command, where, argv)
        return
    if command.n is None:
        raise InputError("give -n 2 or more to start so many processes here, or --coordinator on every host")
    if command.n > (cores := len(own_cores()) or command.n):
        raise InputError(
            f"-n is {command.n}, but there are {cores} cores; choose at most as many, one for each process"
        )
    command.settings(command.n)
    way_in = shaped.way_in(delay=any(command.rtts)) if command.rates else []
    check_runs(command.experiment, [command.base])
    if way_in:
        fetch(command.experiment)
        shaped.enter(way_in)  # this process begins again there, with all in its caches
    out = output_folder(where)
    fetch(command.experiment)
    if command.rates:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for the ranks: there is no way out of their network
        for rtt in dict.fromkeys(command.rtts):
            with shaped.joined(rtt) as ends:
                words = [*argv, "--rtts", str(rtt)]
                ranks = commands(2, "eval.latency", words, free_port(), shaped.ADDRESSES[0])
                _supervise([end.inside(rank) for end, rank in zip(ends, ranks, strict=True)])
    else:
        _supervise(commands(command.n, "eval.latency", argv, free_port()))
    finish(out, f"python -m eval.latency {shlex.join(argv)}")


def fetch(experiment: Experiment) -> None:
    """Brings what an experiment reads into the caches, so that its processes need no network for it.

    Raises:
      InputError: if the weights' source or the data set is unknown, or the hub does not give it.
      AssetError: if an asset can't be had.
    """
    hub.resolve(experiment.weights, experiment.revision)
    load_data(experiment, experiment.evaluation.split)


def _supervise(ranks: list[list[str]]) -> None:
    if status := supervise(ranks):
        raise SystemExit(status)


SOURCES = (
    *("eval.timing.requests", "eval.timing.part_alone", "eval.timing.part_program"),
    *("eval.links.shaped", "eval.links.relay", "eval.launch", "eval.launching.rank"),
)
"""The modules that make a latency: times that another version measured must not stand beside ours."""


def measure(command: Latency, where: str, argv: list[str]) -> None:
    """What every process does: all tables that are not on disk yet, in the folder `where`."""
    num_parts = jax.device_count()
    if num_parts != jax.process_count():
        raise InputError(f"{jax.process_count()} processes have {num_parts} devices; give each process one")
    if command.n not in (None, num_parts):
        raise InputError(f"-n is {command.n}, but {num_parts} processes came together; leave -n out")
    if command.rates and not shaped.counters():
        raise InputError("--rates goes with -n 2; a link between real hosts has the rate that it has")
    settings = command.settings(num_parts)
    check_runs(command.experiment, [command.base])
    out = output_folder(where)
    scoring = load_scoring(command.experiment, settings, {BASE: command.base}, fresh=command.experiment.training.fresh)
    content = files.results(scoring, [], f"python -m eval.latency {shlex.join(argv)}")
    content |= {"library": store.digest_of_library(*SOURCES), "processes": jax.process_count()}
    content = from_terminal(lambda: content | before(out, content))
    wanted = [(text_of(setting.exchange), setting.num_parts) for setting in settings]
    places, prepared = requests.places(scoring, settings), dict[tuple[int, int], list[requests.Request]]()
    last_shaped: dict | None = None
    for link, num_tokens, batch_size in product(command.links, command.lengths, command.batch_sizes):
        here = link | {"batch_size": batch_size, "tokens": num_tokens}
        there = [row for row in content["rows"] if here.items() <= row.items()]
        if [(row["setting"], row["num_parts"]) for row in there] != wanted:
            if link["rate_bits_per_second"] and link is not last_shaped:
                content, last_shaped = _shaped(content, link), link
            at = scoring.at(num_tokens)
            content = _with_parts_alone(content, command, at, batch_size)
            if (num_tokens, batch_size) not in prepared:
                prepared[num_tokens, batch_size] = requests.requests(at, settings, batch_size, places)
            timed = requests.rows(prepared[num_tokens, batch_size], command.rounds, command.seconds)
            there = [link | {"rate_measured": _measured_rate(content, link)} | row for row in timed]
            alone = {(x["setting"], x["num_parts"]): x["seconds"] for x in _alone(content, num_tokens, batch_size)}
            there = [row | {"seconds_alone": alone[row["setting"], row["num_parts"]]} for row in there]
            others = [row for row in content["rows"] if not here.items() <= row.items()]
            content = content | {"rows": others + there}
            if is_terminal():
                files.write_json(out, content)
        print(requests.table(there), flush=True)


def before(out: Path, content: dict) -> dict:
    """What an earlier call of the same command found: rows, parts alone, ladders.

    Raises:
      InputError: if it was of something else.
    """
    found = ("rows", "parts_alone", "ladders")
    if not (out / FILE).exists():
        return {name: [] for name in found}
    earlier = read_calibration(out, "choose another --out")
    same = ("config", "model", "weights", "library", "processes")
    differing = [name for name in same if earlier.get(name) != content[name]]
    if differing or earlier["environment"]["cpu"] != content["environment"]["cpu"]:
        raise InputError(f"{out / FILE} is of another {', '.join(differing) or 'machine'}; choose another --out")
    return {name: earlier[name] for name in found}


def _shaped(content: dict, link: dict) -> dict:
    """Gives the link its rate; with the ladder that proves it."""
    shaped.shape(f"{link['rate_bits_per_second']:.0f}bit")
    rungs = shaped.ladder(jax.process_index())

    def on_terminal():
        found = shaped.measured(rungs)
        if not 0.75 < found["rate_bits_per_second"] / link["rate_bits_per_second"] < 1.1:
            raise RunError(
                f"{link['link']}: this machine can't hold that rate, the ladder shows {found['rate_bits_per_second'] / 1e6:.1f} Mbit/s; "
                "choose a lower one"
            )
        print(f"{link['link']}: measured {found['rate_bits_per_second'] / 1e6:.1f} Mbit/s, {found['rtt_ms']:.2f} ms")
        kept = [one for one in content["ladders"] if one["link"] != link["link"]]
        return [*kept, link | {"measured": found, "rungs": rungs}]

    return content | {"ladders": from_terminal(on_terminal)}


def _measured_rate(content: dict, link: dict) -> float | None:
    """Bits a second, as the ladder of a link shows them."""
    found = [one for one in content["ladders"] if one["link"] == link["link"]]
    return found[0]["measured"]["rate_bits_per_second"] if found else None


def _alone(content: dict, num_tokens: int, batch_size: int) -> list[dict]:
    here = {"tokens": num_tokens, "batch_size": batch_size}
    return [row for row in content["parts_alone"] if here.items() <= row.items()]


def _with_parts_alone(content: dict, command: Latency, scoring: Scoring, batch_size: int) -> dict:
    """With what a part of each setting computes alone, measured on the terminal's core while the others wait.

    Also on the config's other numbers of parts, for `eval.plan`.
    """
    experiment, num_tokens = command.experiment, scoring.experiment.num_tokens
    several_parts = dict.fromkeys((jax.device_count(), *(p for p in experiment.grid.parts if p > 1)))
    settings = [ONE_DEVICE] + [
        Setting(one, num_parts)
        for num_parts in several_parts
        for one in dict.fromkeys((AllGather(), *grid_of_exchanges(experiment.grid)))
        if not why_impossible(Setting(one, num_parts), (num_tokens,))
    ]
    found = _alone(content, num_tokens, batch_size)
    if {(row["setting"], row["num_parts"]) for row in found} >= {(text_of(x.exchange), x.num_parts) for x in settings}:
        return content
    measured = from_terminal(lambda: part_alone.measure(scoring, settings, batch_size))
    return content | {"parts_alone": [row for row in content["parts_alone"] if row not in found] + measured}


def finish(out: Path, command: str) -> None:
    """Adds predictions where there are several links, and draws the figure."""
    content = read_calibration(out) | {"command": command}
    shaped = [row for row in content["rows"] if row["rate_bits_per_second"]]
    if shaped:
        latency_model.predict_each_from_other_links(shaped)
        errors = latency_model.errors(shaped)
        if len(errors):
            median, p90 = np.percentile(errors, [50, 90])
            print(
                f"predicted from the other links: off by {median:.1%} in the median, {p90:.1%} at p90, of {len(errors)} requests"
            )
        other_plots.latency(out / "latency.png", content | {"rows": shaped})
    files.write_json(out, content)
    print(f"wrote {out}/results.json" + (", latency.png" if shaped else ""))


if __name__ == "__main__":
    run(main, sys.argv[1:])
