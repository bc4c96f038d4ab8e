"""Writes a report of the results of one sweep, or of several side by side.

python -m eval.report DIR [DIR ...] [--page README.md] [--plots score_bytes] [--html] [--out DIR]
    -> report.md and plots from the results.json of each folder; --out is needed for several;
       with --html also report.html, one file with tables that sort and filter, and plots that show values
"""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from eval.reporting import html_page
from eval.reporting.markdown import write_report
from eval.reporting.records import read_sweep
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.errors import InputError
from prism_jax.folders import write
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Report:
    folders: Annotated[tyro.conf.Positional[tuple[UserPath, ...]], tyro.conf.arg(metavar="DIR [DIR ...]")] = ()
    """Folders with a results.json of eval.sweep."""
    page: Literal["report.md", "README.md"] = "report.md"
    """File name of the report. Web sites show README.md below the list of a folder's files."""
    plots: tuple[Literal["score_bytes", "score_flops", "score_rate", "compute_parts"], ...] = (
        "score_bytes",
        "score_flops",
        "score_rate",
        "compute_parts",
    )
    """Plots to draw: the score against bytes, against FLOPs and against the compression rate, and FLOPs against the
    number of parts."""
    html: bool = False
    """Write report.html too: the report as one file that needs no network, with tables that sort and filter, and plots
    that show the values of the point under the pointer. It needs `pip install 'prism_jax[html]'`."""
    out: UserPath | None = None
    """Folder for the report. The default is the folder of the results, if there is only one."""


def main(argv: list[str]) -> None:
    command = flags.parse_flags(Report, __doc__, argv)
    if not command.folders:
        raise InputError("no folder given; give one that eval.sweep wrote, or several")
    if command.html:
        html_page.check()
    contents = {folder: read_sweep(folder) for folder in command.folders}
    if len(contents) > 1 and not command.out:
        raise InputError("several folders were given without --out; give --out, the folder for their common report")
    out = output_folder(command.out or command.folders[0])
    plots = tuple(dict.fromkeys(command.plots))
    written = write_report(out, contents, command.page, plots)
    if command.html:
        write(out / html_page.FILE, html_page.html_page(contents, plots))
        written.append(html_page.FILE)
    print(f"wrote {out}/{', '.join(written)}")


if __name__ == "__main__":
    run(main, sys.argv[1:])
