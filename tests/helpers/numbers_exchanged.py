"""Numbers exchanged without end: python -m helpers.numbers_exchanged FILE SECONDS [raise | refuse]

FILE appears when they are under way. A process that is not heard from for so many SECONDS is lost.
"""

import functools
import sys
import time
from pathlib import Path

from prism_jax.cli import entry
from prism_jax.errors import InputError
from prism_jax.parallel import processes


def main(argv: list[str]) -> None:
    for number in range(1_000_000):
        processes.check_same("number", number)
        if processes.is_terminal():
            Path(argv[0]).touch()
        if argv[2:] == ["raise"] and not processes.is_terminal():
            raise ValueError("of process 1 alone")
        if argv[2:] == ["refuse"]:
            processes.from_terminal(refuse)
        time.sleep(0.02)


def refuse() -> None:
    raise InputError("refused by process 0")


if __name__ == "__main__":
    processes.join = functools.partial(processes.join, lost_after=float(sys.argv[2]))
    entry.run(main, sys.argv[1:])
