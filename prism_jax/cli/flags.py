"""Command lines of the entry points: a config file, and flags over its values."""

import contextlib
import io
import re
from typing import Any

import jax
import tyro

from prism_jax import records
from prism_jax.errors import InputError
from prism_jax.experiments.recipe import load
from prism_jax.parallel import processes
from prism_jax.user_paths import expand

ONE_SETTING = {
    "parts": "--num-parts",
    **dict.fromkeys(("segments", "exchanges", "wires"), "--exchange"),
    "lengths": "--num-tokens",
    "tuned": "--checkpoint",
}
"""`UNUSED` of a command that runs one setting: what a sweep reads."""


def parse(command: type, description: str, argv: list[str]) -> Any:
    """An entry point's arguments: `CONFIG [flags]`, the flags over the values of the config file.

    Args:
      command: a dataclass with a field `experiment: Flat`, and fields of its own for the command's own flags. Its `UNUSED`, if
        any, has the experiment's fields that the command does not read, and the flags to use in their place.
      description: for `--help`.
      argv: without the name of the program.

    Raises:
      InputError: for a missing or wrong config, an unknown flag or one that would do nothing, a value that does not fit.
      SystemExit: after `--help`.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise InputError(
            "the first argument is a config file, such as configs/bert_newsgroups.py; --help after it lists the flags"
        )
    if argv[0] in ("-h", "--help"):
        print(f"{description}\n\nusage: CONFIG [flags]; CONFIG --help lists the flags of a config.\n{processes.USAGE}")
        raise SystemExit(0)
    default = command(experiment=load(argv[0]))
    parsed = _cli(command, argv[1:], default=default, prog=argv[0], description=description)
    for name, instead in getattr(command, "UNUSED", {}).items():
        if getattr(parsed.experiment, name) != getattr(default.experiment, name):
            raise InputError(f"--{name.replace('_', '-')} does nothing in this command; use {instead}")
    parsed.experiment.check()
    processes.check_same("flags, config or version of JAX", repr((jax.__version__, parsed)))
    return parsed


def parse_flags(command: type, description: str, argv: list[str]) -> Any:
    """The arguments of an entry point without a config file.

    Raises:
      InputError: for an unknown flag, a missing or wrong value.
      SystemExit: after `--help`.
    """
    processes.refuse_several("this command runs")
    return _cli(command, argv, description=description)


def _cli(command: type, argv: list[str], **how: Any) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = expand(tyro.cli(command, args=argv, **how))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(_first_sentence(said.getvalue())) from stop
    records.check_fields(parsed)
    return parsed


def _first_sentence(box: str) -> str:
    """The message of the box that tyro draws around an error."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip(" │") for line in box.splitlines()]
    lines = [line for line in lines if line and not line.startswith("╭")]
    end = next((i for i, line in enumerate(lines) if line.startswith(("─", "╰"))), len(lines))
    return " ".join(lines[:end]) + "; --help lists the flags"
