"""Measures latency on real processes, one core each: from the input on process 0 to the logits on process 0.

python -m eval.latency configs/X.py -n 2 [--segments 1 10] [--exchanges EXCHANGE ...] [--wires float32 int8]
    [--batch-sizes 1 8]
        [--lengths 128 256] [--rates 10mbit 50mbit 200mbit] [--rtts 0 5 20] [--base RUN] [--out DIR] [flags]
    -> a table for each link, N and B as soon as it is complete; DIR/results.json, latency.png; the same command
    resumes after an interruption

One device (process 0 alone, on its core), Voltage and the exchanges of the config take turns, request by request.
Without --rates the processes communicate over loopback. With --rates, they are joined by links of that rate and
round-trip time (ms). There may be more of them than cores then: parts that share a core compute in turn. On several
hosts, leave -n out and start the command on each with --coordinator.
"""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import jax
import numpy as np
import tyro
from msgspec import Meta

from eval.launch import commands, free_port, own_cores, supervise
from eval.links import shaped
from eval.reporting import files
from eval.reporting.records import FILE
from eval.scoring.load import check_scoring, load_scoring
from eval.scoring.variants import BASE, ONE_DEVICE
from eval.sweeping import store
from eval.sweeping.grid import grid_of_exchanges
from eval.timing import session
from eval.timing.measurements import HOSTS, LOOPBACK, LinkFields, Measurements
from prism_jax.assets import hub
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.cli.flags import Flat
from prism_jax.errors import InputError
from prism_jax.exchange.base import check as check_exchanges
from prism_jax.exchange.baselines import AllGather
from prism_jax.exchange.setting import Setting
from prism_jax.experiments.build import load_data
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Preparation
from prism_jax.parallel.processes import from_process, several
from prism_jax.records import BatchSize, Count, Positive
from prism_jax.user_paths import UserPath

RTTS = "one or more of 0 to 1000 milliseconds"
Rtt = Annotated[float, Meta(ge=0, le=1000, description=RTTS)]


@dataclass(frozen=True)
class Latency:
    UNREAD: ClassVar = {"--batch-size": "--batch-sizes", "--buckets": "--lengths"}
    experiment: Flat[Experiment]
    evaluation: Flat[Evaluation]
    grid: Flat[Grid]
    training: Preparation
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",), metavar="P")] = None
    """Number of processes to start on this machine, one part and one core each. By default, the processes of
    --coordinator are used."""
    batch_sizes: Annotated[tuple[BatchSize, ...], Meta(min_length=1, description="one or more")] = (1, 8)
    """B, the examples of a request."""
    rates: tuple[str, ...] = ()
    """Rates of shaped links between the processes, for example 50mbit. Without any, loopback."""
    rtts: Annotated[tuple[Rtt, ...], Meta(min_length=1, description=RTTS)] = (0.0,)
    """Round-trip times to add to the shaped link, in milliseconds."""
    rounds: Count = 20
    """Largest number of times that each setting is timed, in turn."""
    seconds: Positive = 60.0
    """Seconds after which a table ends, approximately. Each setting is timed at least three times."""
    base: UserPath | None = None
    """A run of train.finetune (RUN or RUN@STEP) or an adapter in PEFT's layout, in place of the config's weights.
    Parameters in training.fresh are initialised at random: latency does not depend on values."""
    out: UserPath | None = None
    """Folder for the results. The default is runs/NAME/latency, where NAME is the config's."""

    def check(self) -> None:
        """Raises InputError if a value is out of its range."""
        if self.n is not None and self.n < 2:
            raise InputError(f"-n is {self.n}; choose 2 processes or more, since one device is measured beside them")
        for rate in self.rates:
            shaped.rate_of(rate)
        if any(self.rtts) and not self.rates:
            raise InputError("a round-trip time goes with a rate; give --rates too, such as 200mbit")
        if self.rates and (self.n or 0) > shaped.MOST:
            raise InputError(f"-n is {self.n}, but shaped links join at most {shaped.MOST} processes; choose fewer")

    def settings(self, num_parts: int) -> list[Setting]:
        """Returns the settings that take turns: one device, Voltage, then the exchanges of the config.

        Raises:
          InputError: if an exchange can't run.
        """
        for num_tokens in self.lengths:
            for exchange in grid_of_exchanges(self.grid):
                check_exchanges(exchange, num_tokens, num_parts)
        exchanges = dict.fromkeys((AllGather(), *grid_of_exchanges(self.grid)))
        return list(dict.fromkeys((ONE_DEVICE, *(Setting(exchange, num_parts) for exchange in exchanges))))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The values of N to measure."""
        return tuple(dict.fromkeys(self.grid.lengths or (self.experiment.num_tokens,)))

    @property
    def links(self) -> list[LinkFields]:
        """Links to measure, in order: all rates at the first round-trip time, then all rates at the next."""
        if not self.rates:
            return [LinkFields(HOSTS if self.n is None else LOOPBACK)]
        return [
            LinkFields(f"{rate}, rtt {rtt:g} ms", shaped.rate_of(rate), rtt)
            for rtt in dict.fromkeys(self.rtts)
            for rate in dict.fromkeys(self.rates)
        ]


def main(argv: list[str]) -> None:
    command = flags.parse(Latency, __doc__, argv)
    folder = command.out or f"runs/{Path(argv[0]).stem}/latency"
    command_line = f"python -m eval.latency {shlex.join(argv)}"
    if several():
        measure_tables(command, folder, command_line)
        return
    if command.n is None:
        raise InputError("give -n 2 or more to start so many processes here, or --coordinator on every host")
    if command.n > (cores := len(own_cores()) or command.n) and not command.rates:
        raise InputError(
            f"-n is {command.n}, but there are {cores} cores; choose at most as many, one for each process, "
            "or give --rates"
        )
    settings = command.settings(command.n)
    enter_command = shaped.enter_command(relayed=any(command.rtts) or command.n > 2) if command.rates else []
    if enter_command:
        fetch(command, settings)
        shaped.enter(enter_command)  # restarts this process in the namespace, with its files in the caches
    out = output_folder(folder)
    fetch(command, settings)
    if command.rates:
        os.environ["HF_HUB_OFFLINE"] = "1"  # the ranks have no network except their link
        for rtt in dict.fromkeys(command.rtts):
            with shaped.joined(command.n, rtt) as ends:
                words = [*argv, "--rtts", str(rtt)]
                ranks = commands(command.n, "eval.latency", words, free_port(), shaped.address(0))
                _supervise([end.inside(rank) for end, rank in zip(ends, ranks, strict=True)])
    else:
        _supervise(commands(command.n, "eval.latency", argv, free_port()))
    session.summarise(out, command_line)


def fetch(command: Latency, settings: Sequence[Setting]) -> None:
    """Fetches the files of an experiment into the caches, so that its processes need no network.

    Raises:
      InputError: as `check_scoring`, or if the hub does not provide weights or data.
      AssetError: if an asset can't be fetched.
    """
    experiment, sources = command.experiment, {BASE: command.base}
    fresh, batch_size = experiment.training.fresh, max(command.batch_sizes)
    check_scoring(experiment, settings, sources, lengths=command.lengths, fresh=fresh, batch_size=batch_size)
    hub.resolve(experiment.weights, experiment.revision)
    load_data(experiment, experiment.evaluation.split)


def _supervise(ranks: list[list[str]]) -> None:
    if status := supervise(ranks):
        raise SystemExit(status)


def measure_tables(command: Latency, folder: str, command_line: str) -> None:
    """Measures all tables that `folder` lacks. Called on every process."""
    num_parts = jax.device_count()
    if num_parts != jax.process_count():
        raise InputError(f"{jax.process_count()} processes have {num_parts} devices; give each process a single one")
    if command.n not in (None, num_parts):
        raise InputError(f"-n is {command.n}, but {num_parts} processes came together; leave -n out")
    if command.rates and not shaped.counters():
        raise InputError("--rates goes with -n; a link between real hosts has the rate that it has")
    experiment, settings = command.experiment, command.settings(num_parts)
    out = output_folder(folder)
    sources, fresh = {BASE: command.base}, experiment.training.fresh
    scoring = load_scoring(
        experiment, settings, sources, lengths=command.lengths, fresh=fresh, batch_size=max(command.batch_sizes)
    )
    header = files.results(scoring, [], command_line)
    header |= {"library": store.digest_of_library(*session.SOURCES), "processes": jax.process_count()}
    measurements = Measurements(out / FILE, header)
    tables = session.Session(
        *(scoring, settings, command.links, command.lengths, command.batch_sizes, command.rounds, command.seconds),
        parts_per_core=parts_per_core() if command.n else 1,
    )
    tables.run(measurements)


def parts_per_core() -> int:
    """Returns the largest number of processes of this machine that share a core. Called on every process."""
    own = min(own_cores() or [jax.process_index()])
    cores = [int(from_process(process, np.array(own))) for process in range(jax.process_count())]
    return max(Counter(cores).values())


if __name__ == "__main__":
    run(main, sys.argv[1:])
