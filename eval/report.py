"""Writes a report of results, or of several side by side.

python -m eval.report DIR [DIR ...] [--out DIR] [--page README.md] [--plots score_bytes.png]
    -> report.md and plots from the results.json of each folder; --out is needed for several
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from eval.reporting.markdown import write_report
from eval.reporting.records import read_sweep
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.errors import InputError
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Report:
    folders: Annotated[tyro.conf.Positional[tuple[UserPath, ...]], tyro.conf.arg(metavar="DIR [DIR ...]")] = ()
    """Folders with a results.json of eval.sweep."""
    out: UserPath | None = None
    """Folder for the report; that of the results by default, where there is one."""
    page: str = "report.md"
    """File name of the page. GitHub shows a README.md under its folder."""
    plots: tuple[Literal["score_bytes.png", "score_rate.png", "compute_parts.png"], ...] = (
        "score_bytes.png",
        "score_rate.png",
        "compute_parts.png",
    )
    """Plots to draw."""


def main(argv: list[str]) -> None:
    command = flags.parse_flags(Report, __doc__, argv)
    if not command.folders:
        raise InputError("no folder given; give one that eval.sweep wrote, or several")
    contents = {folder: read_sweep(folder) for folder in command.folders}
    if len(contents) > 1 and not command.out:
        raise InputError("several folders, and no --out for what lays them side by side")
    if Path(command.page).name != command.page or not command.page.endswith(".md"):
        raise InputError(f"page is {command.page!r}; give the name of a file that ends in .md, such as README.md")
    out = output_folder(command.out or command.folders[0])
    print(f"wrote {out}/{', '.join(write_report(out, contents, command.page, command.plots))}")


if __name__ == "__main__":
    run(main, sys.argv[1:])
