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
"""Type of a dataclass whose fields are flags without a prefix."""

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
"""Flags of other commands, and the flags to use instead, by a group that the command reads. The first group that the
command reads is used."""


def parse(command: type, description: str, argv: list[str]) -> Any:
    """Parses an entry point's arguments, `CONFIG [flags]`. Flags override the values of the config file.

    Args:
      command: a dataclass with a field `experiment: Flat[Experiment]`, a field for each group of the experiment that
        the command reads, for example `grid: Flat[Grid]` or `training: Training`, and fields for the command alone. All
        of them are flags.
      description: text for `--help`.
      argv: arguments without the name of the program.

    Returns:
      The command. The values of the groups are also stored in its experiment.

    Raises:
      InputError: if the config is missing or wrong, the command does not read a flag, or a value does not fit.
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
    parsed = _cli(command, argv[1:], description, default=default, config=argv[0])
    given = {
        name: replace(getattr(experiment, name), **_values(getattr(parsed, name), kind))
        for name, kind in groups.items()
    }
    parsed = replace(parsed, experiment=replace(parsed.experiment, **given))
    parsed.experiment.check()
    processes.check_same("flags, config or version of JAX", repr((jax.__version__, parsed)))
    return parsed


def groups_of(command: type) -> dict[str, type]:
    """Returns the groups of an experiment's fields that a command reads: their classes by field name."""
    kinds = get_type_hints(command)
    return {field.name: kinds[field.name] for field in fields(Experiment) if is_dataclass(kinds.get(field.name))}


def _values(group: Any, kind: type) -> dict[str, Any]:
    return {field.name: getattr(group, field.name) for field in fields(kind)}


def parse_flags(command: type, description: str, argv: list[str]) -> Any:
    """Parses the arguments of an entry point without a config file.

    Raises:
      InputError: if a flag is unknown, or a value is missing or wrong.
      SystemExit: after `--help`.
    """
    processes.refuse_several("this command runs")
    return _cli(command, argv, description)


def _cli(command: type, argv: list[str], description: str, config: str = "", **options: Any) -> Any:
    module = re.search(r"python -m (\S+)", description)
    options |= {"description": description, "prog": f"{module[1] if module else ''} {config}".strip() or None}
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            parsed = expand(tyro.cli(command, args=argv, **options))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(_refusal(command, message.getvalue())) from stop
    records.check_fields(parsed)
    return parsed


def _refusal(command: type, box: str) -> str:
    """Returns the message for a refused command line, from tyro's. Names the flag to use instead, or similar ones."""
    message, _, proposed = box.partition("Perhaps you meant:")
    message = _first_sentence(message)
    flag = re.match(r"Unrecognized options: (--[a-z.-]+)", message)
    kinds = groups_of(command).values()
    ways_out = next((ways for kind, ways in INSTEAD.items() if kind in kinds), {})
    if flag and flag[1] in ways_out:
        return f"{flag[1]} does nothing in this command; use {ways_out[flag[1]]}"
    if flag and flag[1].startswith("--training.") and Training not in kinds:
        return f"{flag[1]} does nothing in this command; it is for train.finetune"
    similar = ", ".join(re.findall(r"^\W*(--[a-z.-]+)", proposed, re.MULTILINE))
    return f"{message}; {f'similar are {similar}; ' if similar else ''}--help lists the flags"


def _first_sentence(box: str) -> str:
    """Returns the message in the box that tyro draws around an error, without its title. The box has lines of "-" where
    stdout is not UTF-8."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip(" │") for line in box.splitlines()]
    lines = [line for line in lines if line]
    rules = [i for i, line in enumerate(lines) if line.startswith(("╭", "─", "╰")) or set(line) == {"-"}]
    start, end = [*rules, len(lines), len(lines)][:2] if rules else (-1, len(lines))
    return " ".join(lines[start + 1 : end])
