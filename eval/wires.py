"""Time of encoding and decoding rows for each wire format, as a share of a block's time, on one core.

python -m eval.wires [--num-tokens 256] [--num-parts 2 4] [--wires int4 int2] [--rounds 30] [--out DIR]
    -> a line for each format; DIR/results.json

The block is of BERT-base's size, and every row of a part is sent. No rows travel.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Annotated

from msgspec import Meta

from eval.reporting import files
from eval.reporting.text_table import Column, TextTable
from eval.timing import wire_times
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.errors import InputError
from prism_jax.exchange.wire import FLOAT32, WIRES, check_names
from prism_jax.parallel.partition import check_parts
from prism_jax.progress import Progress
from prism_jax.records import ONE_OR_MORE, NumTokens
from prism_jax.user_paths import UserPath

TABLE = TextTable(
    (
        Column("wire", 8),
        Column("P", 3, right=True),
        Column("bytes a row", 11, right=True),
        Column("encode ms", 9, right=True),
        Column("decode ms", 9, right=True),
        Column("block ms", 9, right=True),
        Column("share of the block % [10th, 90th percentile]", 44),
    ),
    gap="  ",
)


@dataclass(frozen=True)
class Wires:
    num_tokens: NumTokens = 256
    """Number of tokens, N."""
    num_parts: Annotated[
        tuple[Annotated[int, Meta(ge=2, le=2**16, description=f"2 or more, up to {2**16}")], ...], ONE_OR_MORE
    ] = (2, 4)
    """Numbers of parts, P."""
    wires: Annotated[tuple[str, ...], ONE_OR_MORE] = tuple(name for name in WIRES if name != FLOAT32.name)
    """Wire formats to time."""
    rounds: Annotated[int, Meta(ge=3, le=10_000, description="3 or more, up to 10000")] = 30
    """Times that everything is run, in turn. The times are medians."""
    out: UserPath = "runs/wires"
    """Folder for the results."""

    def check(self) -> None:
        """Raises InputError for an unknown format, or for more parts than tokens."""
        check_names(self.wires)
        for num_parts in self.num_parts:
            check_parts(num_parts, self.num_tokens)


def main(argv: list[str]) -> None:
    command = flags.parse_flags(Wires, __doc__, argv)
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("eval.wires keeps itself on one core, which this system has no call for; run it on Linux")
    out = output_folder(command.out)
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    os.environ["JAX_PLATFORMS"] = "cpu"
    print(TABLE.header, flush=True)
    records = []
    for num_parts in Progress(command.num_parts, "numbers of parts", unit="number"):
        with ProcessPoolExecutor(1, get_context("spawn"), wire_times.stay_on_one_core) as process:
            asked = (command.wires, num_parts, command.num_tokens, command.rounds)
            measured = process.submit(wire_times.measure, *asked).result()
        for record in measured:
            records.append(record)
            low, high = record["share_of_block_p10_p90"]
            times = (f"{1e3 * record[name]:.3f}" for name in ("encode_seconds", "decode_seconds", "block_seconds"))
            share = f"{100 * record['share_of_block']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            Progress.write(TABLE.line([record["wire"], str(num_parts), str(record["row_bytes"]), *times, share]))
    content = {"schema": files.SCHEMA, "config": asdict(command), "environment": files.environment()}
    files.write_json(out, content | {"rows": records})
    print(f"wrote {out}/results.json")


if __name__ == "__main__":
    run(main, sys.argv[1:])
