"""Command lines of the entry points: a config file, and flags over its values."""

import contextlib
import io
import re
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

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
        of them are flags, but for those in `UNREAD`, see `reduced`.
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
    experiment, groups, shown = load(argv[0]), groups_of(command), reduced(command)
    read = {name: _as(kind, getattr(experiment, name)) for name, kind in groups_of(shown).items()}
    default = shown(experiment=_as(get_type_hints(shown)["experiment"], experiment), **read)
    parsed = _cli(command, argv[1:], description, default=default, config=argv[0])
    read = {name: _as(kind, getattr(parsed, name)) for name, kind in groups.items()}
    given = {name: replace(getattr(experiment, name), **_values(read[name], kind)) for name, kind in groups.items()}
    experiment = replace(_as(Experiment, parsed.experiment), **given)
    parsed = replace(_as(command, parsed), experiment=experiment, **read)
    unread = getattr(command, "UNREAD", {})  # lengths in the config that nothing reads need not fit this N
    (replace(parsed.experiment, buckets=()) if "--buckets" in unread else parsed.experiment).check()
    if Setting in groups.values():
        parsed.setting.check_parts()
    if hasattr(parsed, "check"):
        parsed.check()
    processes.check_same("flags, config or version of JAX", repr((jax.__version__, parsed)))
    return parsed


def groups_of(command: type) -> dict[str, type]:
    """Returns the groups of an experiment's fields that a command reads: their classes by field name."""
    kinds = get_type_hints(command)
    return {field.name: kinds[field.name] for field in fields(Experiment) if is_dataclass(kinds.get(field.name))}


@cache
def reduced(command: type) -> type:
    """Returns a command without the flags that it never reads: those in its `UNREAD`, if it has one.

    `UNREAD` has such flags of the experiment and of its groups, each with the flag to use instead.
    """
    unread, shown = getattr(command, "UNREAD", {}), {}
    hints = get_type_hints(command, include_extras=True)
    for name in ("experiment", *groups_of(command)) if unread else ():
        kind, *marks = get_args(hints[name]) or (hints[name],)
        prefix = "--" if marks else f"--{name}."
        fields_of_kind = get_type_hints(kind, include_extras=True)
        flag_of = {field: prefix + field.replace("_", "-") for field in fields_of_kind}
        hidden = {
            field: Annotated[hint, tyro.conf.Suppress]  # type: ignore[valid-type]
            for field, hint in fields_of_kind.items()
            if flag_of[field] in unread
        }
        if hidden:
            shown[name] = Annotated[_with_types(kind, hidden), *marks] if marks else _with_types(kind, hidden)
    return _with_types(command, shown) if shown else command


def _with_types(record: type, hints: dict[str, Any]) -> type:
    """Returns a dataclass with other types of some fields."""
    content = {"__annotations__": hints, "__module__": record.__module__, "__doc__": record.__doc__}
    return type(record.__name__, (record,), content)


def _as(kind: type, record: Any) -> Any:
    """Returns a record of another class, with the same values."""
    return kind(**_values(record, kind))


def _values(record: Any, kind: type) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(kind)}


def parse_flags(command: type, description: str, argv: list[str]) -> Any:
    """Parses the arguments of an entry point without a config file.

    Raises:
      InputError: if a flag is unknown, or a value is missing or wrong.
      SystemExit: after `--help`.
    """
    processes.refuse_several("this command runs")
    parsed = _cli(command, argv, description)
    if hasattr(parsed, "check"):
        parsed.check()
    return parsed


def _cli(command: type, argv: list[str], description: str, config: str = "", **options: Any) -> Any:
    module = re.search(r"python -m (\S+)", description)
    options |= {"description": description, "prog": f"{module[1] if module else ''} {config}".strip() or None}
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            parsed = expand(tyro.cli(reduced(command), args=argv, **options))
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
    flag = re.match(r"Unrecognized options: (--[a-z._-]+)", message)
    kinds = groups_of(command).values()
    ways_out = next((ways for kind, ways in INSTEAD.items() if kind in kinds), {}) | getattr(command, "UNREAD", {})
    name = flag[1].replace("_", "-") if flag else ""
    if name in ways_out:
        return f"{name} does nothing in this command; use {ways_out[name]}"
    if name.startswith("--training.") and Training not in kinds:
        return f"{name} does nothing in this command; it is for train.finetune"
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
