"""Latency on real processes, one core each: from the input on process 0 to the logits on process 0.

python -m eval.latency configs/X.py -n 2 [--segments 1 10] [--exchanges EXCHANGE ...] [--wires float32 int8] [--batch-sizes 1 8]
        [--lengths 128 256] [--base RUN] [--out DIR] [flags]
    -> a table for each N and batch size as it is there; DIR/results.json; the same command goes on where it was stopped

One device (process 0 alone, on its core), Voltage and the exchanges of the config take turns, request by request. On several
hosts, leave -n out and start it on each with --coordinator.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import tyro

from eval import results, timing
from eval.launch import commands, free_port, supervise
from eval.plan import BASE, ONE_DEVICE, grid_of_exchanges
from eval.scoring import load_scoring
from prism_jax import config, flags
from prism_jax.command import output_folder, run
from prism_jax.errors import InputError
from prism_jax.exchange import AllGather, check
from prism_jax.prediction import Setting
from prism_jax.processes import from_terminal, is_terminal, several

LOOPBACK, HOSTS = "loopback", "hosts"


@dataclass(frozen=True)
class Latency:
    experiment: config.Flat
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",), metavar="P")] = None
    """Processes to start on this machine, one part and one core each; without it, those that --coordinator brings together."""
    batch_sizes: tuple[int, ...] = (1, 8)
    """B, examples of a request."""
    rounds: int = 20
    """How often each setting is timed at most, in turn."""
    seconds: float = 60.0
    """After about this time a table ends, with three rounds at least."""
    base: str | None = None
    """A run of train.finetune (RUN or RUN@STEP) or an adapter in PEFT's layout, in place of the config's weights."""
    out: str | None = None
    """Folder for the results; runs/NAME/latency by default, NAME being the config's."""

    def check(self) -> None:
        """Raises InputError for a value out of its range."""
        if min(self.batch_sizes, default=0) < 1 or self.rounds < 1 or not self.seconds > 0:
            raise InputError("choose batch_sizes and rounds of 1 or more, and more than 0 seconds")
        if self.n is not None and self.n < 2:
            raise InputError(f"-n is {self.n}; choose 2 processes or more, since one device is measured beside them")

    def settings(self, num_parts: int) -> list[Setting]:
        """What takes turns: one device, Voltage, then what the config lists.

        Raises:
          InputError: for an exchange that can't run.
        """
        for num_tokens in self.lengths:
            for exchange in grid_of_exchanges(self.experiment):
                check(exchange, num_tokens, num_parts)
        found = [ONE_DEVICE, Setting(AllGather(), num_parts)]
        return list(dict.fromkeys(found + [Setting(one, num_parts) for one in grid_of_exchanges(self.experiment)]))

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.experiment.lengths or (self.experiment.num_tokens,)))


def main(argv: list[str]) -> None:
    command = flags.parse(Latency, __doc__, argv)
    command.check()
    out = output_folder(command.out or f"runs/{Path(argv[0]).stem}/latency")
    if several():
        measure(command, out, argv)
        return
    if command.n is None:
        raise InputError("give -n 2 or more to start so many processes here, or --coordinator on every host")
    command.settings(command.n)
    if status := supervise(commands(command.n, "eval.latency", argv, free_port())):
        raise SystemExit(status)


def measure(command: Latency, out: Path, argv: list[str]) -> None:
    """What every process does: all tables that are not on disk yet."""
    num_parts = jax.device_count()
    if num_parts != jax.process_count():
        raise InputError(f"{jax.process_count()} processes have {num_parts} devices; give each process one")
    if command.n not in (None, num_parts):
        raise InputError(f"-n is {command.n}, but {num_parts} processes came together; leave -n out")
    settings = command.settings(num_parts)
    scoring = load_scoring(command.experiment, settings, {BASE: command.base})
    link = HOSTS if command.n is None else LOOPBACK
    content = results.results(scoring, [], f"python -m eval.latency {' '.join(argv)}")
    rows = from_terminal(lambda: finished(out, content))
    for num_tokens in command.lengths:
        for batch_size in command.batch_sizes:
            here = {"link": link, "batch_size": batch_size, "tokens": num_tokens}
            there = [row for row in rows if here.items() <= row.items()]
            if len(there) != len(settings):
                rows = [row for row in rows if row not in there]
                requests = timing.requests(scoring.at(num_tokens), settings, batch_size)
                there = timing.rows(requests, command.rounds, command.seconds)
                there = [here | row for row in there]
                rows += there
                if is_terminal():
                    results.write_json(out, content | {"rows": rows})
            print(timing.table(there), flush=True)
    print(f"wrote {out}/results.json")


def finished(out: Path, content: dict) -> list[dict]:
    """The rows of an earlier call of the same experiment."""
    path = out / "results.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    same = all(before.get(name) == content[name] for name in ("schema", "config", "model", "weights"))
    return before["rows"] if same else []


if __name__ == "__main__":
    run(main, sys.argv[1:])
