"""Writes a report of results, or of several side by side.

python -m eval.report DIR [DIR ...] [--out DIR]
    -> report.md and plots from the results.json of each folder; --out is needed for several
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from eval import plots, results
from eval.markdown import write_report
from prism_jax import flags
from prism_jax.command import output_folder, run
from prism_jax.errors import InputError
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Report:
    folders: Annotated[tyro.conf.Positional[tuple[UserPath, ...]], tyro.conf.arg(metavar="DIR [DIR ...]")] = ()
    """Folders with a results.json of eval.sweep."""
    out: UserPath | None = None
    """Folder for the report; that of the results by default, where there is one."""


def read(folder: str) -> dict:
    """The results in a folder.

    Raises:
      InputError: if there are none of a sweep.
    """
    path = Path(folder) / "results.json"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"no results in {folder!r}; give a folder that eval.sweep wrote: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != results.SCHEMA or not of_a_sweep(content):
        raise InputError(f"{path} holds no scored rows of schema {results.SCHEMA}; give a folder that eval.sweep wrote")
    return content


def of_a_sweep(content: dict) -> bool:
    """Whether there are scored rows, each with a setting."""
    needed = ("exchange", "wire", "num_parts", "num_segments", "weights", "tokens", "flops_per_device")
    rows = content.get("rows", [])
    return bool(plots.scored(content)) and all(name in row for row in rows for name in needed)


def main(argv: list[str]) -> None:
    command = flags.parse_flags(Report, __doc__, argv)
    if not command.folders:
        raise InputError("no folder given; give one that eval.sweep wrote, or several")
    contents = {str(folder): read(folder) for folder in command.folders}
    if len(contents) > 1 and not command.out:
        raise InputError("several folders, and no --out for what lays them side by side")
    out = output_folder(command.out or command.folders[0])
    print(f"wrote {out}/{', '.join(write_report(out, contents))}")


if __name__ == "__main__":
    run(main, sys.argv[1:])
