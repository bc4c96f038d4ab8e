"""Command lines of the entry points: a config file, and flags over its values."""

import contextlib
import io
import re
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, TypeVar, get_type_hints

import jax
import tyro

from prism_jax import records
from prism_jax.errors import InputError
from prism_jax.exchange.setting import Setting
from prism_jax.experiments.recipe import Experiment, Grid, Training, load
from prism_jax.parallel import processes
from prism_jax.user_paths import expand

T = TypeVar("T")

Flat = Annotated[T, tyro.conf.arg(name="")]
"""A dataclass whose fields are flags without a prefix."""

INSTEAD: dict[type, dict[str, str]] = {
    Training: {
        "--parts": "--training.parts",
        **dict.fromkeys(("--segments", "--exchanges", "--wires"), "--training.exchanges"),
        "--lengths": "--num-tokens",
        **dict.fromkeys(("--tuned", "--adapter"), "--start"),
        "--limit": "--training.limit",
        "--split": "--training.validation",
    },
    Setting: {
        "--parts": "--num-parts",
        **dict.fromkeys(("--segments", "--exchanges", "--wires"), "--exchange"),
        "--lengths": "--num-tokens",
        "--tuned": "--checkpoint",
    },
    Grid: {"--exchange": "--exchanges or --segments", "--num-parts": "--parts", "--tuned": "--base"},
}
"""Flags of other commands, and the flags to use in their place, by a group that the command reads. The first group
that it reads counts."""


def parse(command: type, description: str, argv: list[str]) -> Any:
    """An entry point's arguments: `CONFIG [flags]`, the flags over the values of the config file.

    Args:
      command: a dataclass with a field `experiment: Flat[Experiment]`, a field for each group of the experiment that
        the command reads, such as `grid: Flat[Grid]` or `training: Training`, and fields of its own. All are flags.
      description: for `--help`.
      argv: without the name of the program.

    Returns:
      The command. Its experiment holds the values of the groups too.

    Raises:
      InputError: for a missing or wrong config, a flag that the command does not read, a value that does not fit.
      SystemExit: after `--help`.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise InputError(
            "the first argument is a config file, such as configs/bert_newsgroups.py; --help after it lists the flags"
        )
    if argv[0] in ("-h", "--help"):
        print(f"{description}\n\nusage: CONFIG [flags]; CONFIG --help lists the flags of a config.\n{processes.USAGE}")
        raise SystemExit(0)
    experiment, groups = load(argv[0]), groups_of(command)
    read = {name: kind(**_values(getattr(experiment, name), kind)) for name, kind in groups.items()}
    default = command(experiment=experiment, **read)
    parsed = _cli(command, argv[1:], default=default, prog=argv[0], description=description)
    given = {
        name: replace(getattr(experiment, name), **_values(getattr(parsed, name), kind))
        for name, kind in groups.items()
    }
    parsed = replace(parsed, experiment=replace(parsed.experiment, **given))
    parsed.experiment.check()
    processes.check_same("flags, config or version of JAX", repr((jax.__version__, parsed)))
    return parsed


def groups_of(command: type) -> dict[str, type]:
    """The groups of an experiment's fields that a command reads: the class of each by its name."""
    kinds = get_type_hints(command)
    return {field.name: kinds[field.name] for field in fields(Experiment) if is_dataclass(kinds.get(field.name))}


def _values(group: Any, kind: type) -> dict[str, Any]:
    return {field.name: getattr(group, field.name) for field in fields(kind)}


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
        raise InputError(_refusal(command, _first_sentence(said.getvalue()))) from stop
    records.check_fields(parsed)
    return parsed


def _refusal(command: type, message: str) -> str:
    """The message of a refused command line, with the way out where another command has the flag."""
    flag = re.match(r"Unrecognized options: (--[a-z.-]+)", message)
    kinds = groups_of(command).values()
    ways_out = next((ways for kind, ways in INSTEAD.items() if kind in kinds), {})
    if flag and flag[1] in ways_out:
        return f"{flag[1]} does nothing in this command; use {ways_out[flag[1]]}"
    if flag and flag[1].startswith("--training."):
        return f"{flag[1]} does nothing in this command; it is for train.finetune"
    return f"{message}; --help lists the flags"


def _first_sentence(box: str) -> str:
    """The message of the box that tyro draws around an error, below its title;
    in lines of "-" where stdout is not UTF-8."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip(" │") for line in box.splitlines()]
    lines = [line for line in lines if line]
    rules = [i for i, line in enumerate(lines) if line.startswith(("╭", "─", "╰")) or set(line) == {"-"}]
    start, end = [*rules, len(lines), len(lines)][:2] if rules else (-1, len(lines))
    return " ".join(lines[start + 1 : end])
