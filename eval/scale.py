"""Measures time and memory of one part alone, on one core, as sequences grow: a stack of BERT-base's size.

python -m eval.scale [--lengths 256 1024 4096 16384] [--num-parts 8] [--segments 1 16] [--layers 12] [--out DIR]
    -> a line for each measurement; DIR/results.json, scale.png; existing records are not measured again

One part computes the same as on its own device. Its own rows replace those of the other parts, so nothing is sent.
Every measurement runs in a separate process on one core.
"""

import multiprocessing
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from eval.reporting import files, other_plots
from eval.reporting.records import FILE, read_scales
from eval.sweeping import store
from eval.timing import part_program
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.errors import InputError, RunError
from prism_jax.exchange.base import Exchange
from prism_jax.exchange.baselines import AllGather, WholeSequence
from prism_jax.exchange.segments import SegmentMeans
from prism_jax.progress import Progress
from prism_jax.records import ONE_OR_MORE, NumTokens
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Scale:
    lengths: Annotated[tuple[NumTokens, ...], ONE_OR_MORE] = (256, 512, 1024, 2048, 4096, 8192, 16384)
    """The values of N to measure."""
    num_parts: Annotated[int, Meta(ge=2, le=2**16, description=f"2 or more, up to {2**16}")] = 8
    """P, the number of parts."""
    segments: tuple[int, ...] = (1, 16)
    """The values of L of segment means."""
    layers: Annotated[int, Meta(ge=1, le=256, description="1 or more, up to 256")] = 12
    """Number of blocks of the stack."""
    out: UserPath = "runs/scale"
    """Folder for the results."""

    def check(self) -> None:
        """Raises InputError if a length does not fit the parts or the segments."""
        if min(self.lengths) < self.num_parts:
            raise InputError(f"lengths are {self.lengths}; choose at least num_parts, {self.num_parts}, tokens")
        for num_tokens in self.lengths:
            for num_segments in self.segments:
                SegmentMeans(num_segments).check(num_tokens, self.num_parts)


def measure_part(command: Scale, exchange: Exchange, num_parts: int, num_tokens: int) -> dict:
    """Measures one part in a new process. If the process fails, the record has an "error"."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=part_program.measure, args=(queue, command.layers, exchange, num_parts, num_tokens))
    child.start()
    child.join()
    failed = {"error": f"the process ended with status {child.exitcode}"}
    measured = queue.get(timeout=5) if child.exitcode == 0 else failed
    setting = {"exchange": str(exchange), "num_parts": num_parts, "tokens": num_tokens, "layers": command.layers}
    return setting | measured


def earlier_rows(out: str, library: str) -> list[dict]:
    """Returns the records that an earlier call wrote into the folder.

    Args:
      out: the folder for the results.
      library: digest of the library that measures, as results.json notes it.

    Raises:
      InputError: if the records are of another version of the library or of another machine.
    """
    if not (Path(out) / FILE).exists():
        return []
    earlier = read_scales(out)
    if (earlier.get("library"), earlier["environment"]["cpu"]) != (library, files.environment()["cpu"]):
        raise InputError(f"{out}/{FILE} is of another version of the library or another machine; choose another --out")
    return earlier["rows"]


def exponents(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Returns the exponent of N with which time and memory of each exchange grow.

    It is fitted by least squares in logarithms, over the upper half of the N.
    """
    powers: dict[str, dict[str, float]] = {}
    for exchange in dict.fromkeys(row["exchange"] for row in rows):
        records = sorted((row for row in rows if row["exchange"] == exchange), key=lambda row: row["tokens"])
        records = records[len(records) // 2 :]
        if len(records) > 1:
            log_tokens = np.log([row["tokens"] for row in records])
            powers[exchange] = {
                name: float(np.polyfit(log_tokens, np.log([row[name] for row in records]), 1)[0])
                for name in ("seconds", "memory_activations_bytes_compiled")
            }
    return powers


def main(argv: list[str]) -> None:
    command = flags.parse_flags(Scale, __doc__, argv)
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("eval.scale keeps a process on one core, which this system has no call for; run it on Linux")
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    os.environ["JAX_PLATFORMS"] = "cpu"
    library = store.digest_of_library(part_program.__name__)
    rows = earlier_rows(command.out, library)
    out = output_folder(command.out)
    settings = [(WholeSequence(), 1), (AllGather(), command.num_parts)]
    settings += [(SegmentMeans(num_segments), command.num_parts) for num_segments in command.segments]
    planned = [(num_tokens, *setting) for num_tokens in sorted(command.lengths) for setting in settings]
    failed = 0
    for num_tokens, exchange, num_parts in Progress(planned, "records", unit="record"):
        setting = (str(exchange), num_parts, num_tokens, command.layers)
        if setting in {(row["exchange"], row["num_parts"], row["tokens"], row["layers"]) for row in rows}:
            continue
        row = measure_part(command, exchange, num_parts, num_tokens)
        if outcome := row.get("error"):
            failed += 1
        else:
            rows.append(row)
            mebibytes = row["memory_activations_bytes_compiled"] / 2**20
            outcome = f"{row['seconds']:9.3f} s  {mebibytes:9.1f} MiB activations"
        Progress.write(f"N = {num_tokens:6d}  {exchange!s:20s} {outcome}")
        content = {"schema": files.SCHEMA, "config": asdict(command), "environment": files.environment()}
        files.write_json(out, content | {"library": library, "rows": rows})
    shown = [row for row in rows if row["layers"] == command.layers and row["num_parts"] in (1, command.num_parts)]
    powers = exponents(shown)
    for exchange_name, power in powers.items():
        time, memory = power["seconds"], power["memory_activations_bytes_compiled"]
        print(f"{exchange_name:20s} time N^{time:.2f}, activations N^{memory:.2f}")
    if shown:
        other_plots.scale(out / "scale.png", shown, powers)
        print(f"wrote {out}/results.json, scale.png")
    if failed:
        raise RunError(f"{failed} of {len(planned)} records failed; the same command tries them again")


if __name__ == "__main__":
    run(main, sys.argv[1:])
