"""Numbers exchanged without end: python -m helpers.numbers_exchanged FILE SECONDS [raise | refuse | gather]

FILE appears when they are under way. A process that is not heard from for so many SECONDS is lost. With `gather`, the
last process never sends its number, so all others are inside a gather by messages.
"""

import functools
import sys
import time
from pathlib import Path

import jax
import numpy as np

from prism_jax.cli import entry
from prism_jax.errors import InputError
from prism_jax.parallel import processes
from prism_jax.parallel.messages import messages


def main(argv: list[str]) -> None:
    if argv[2:] == ["gather"]:
        gather(Path(argv[0]))
    for number in range(1_000_000):
        processes.check_same("number", number)
        if processes.is_terminal():
            Path(argv[0]).touch()
        if argv[2:] == ["raise"] and not processes.is_terminal():
            raise ValueError("of process 1 alone")
        if argv[2:] == ["refuse"]:
            processes.from_terminal(refuse)
        time.sleep(0.02)


def gather(under_way: Path) -> None:
    number, count, connected = np.float32(jax.process_index()), jax.process_count(), messages()
    if number == count - 1:
        time.sleep(1000)
    arriving = connected.gather(range(count), jax.ShapeDtypeStruct((), number.dtype), lambda: number)
    if processes.is_terminal():
        under_way.touch()
    arriving.result()


def refuse() -> None:
    raise InputError("refused by process 0")


if __name__ == "__main__":
    processes.join = functools.partial(processes.join, lost_after=float(sys.argv[2]))
    entry.run(main, sys.argv[1:])
