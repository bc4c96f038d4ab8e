"""`~` in every path that a command takes, whichever command and field it is."""

import ast
import dataclasses
import importlib
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest
import tyro
from helpers.paths import ROOT

from prism_jax import assets, data
from prism_jax.cli import flags
from prism_jax.errors import InputError
from prism_jax.experiments import recipe
from prism_jax.user_paths import expand, holds_path

NO_PATHS = {
    *("dataset", "split", "revision", "wires", "training.fresh", "training.frozen"),
    *("prompt", "stop", "rate", "rates"),
}
"""All fields of texts that are no paths. A new one belongs here, or its type is UserPath."""

NEEDED = {"dataset": "tales", "vocab_size": "300", "rate": "50mbit", "prompt": "a"}


def commands() -> dict[str, type]:
    """By module: the dataclass that it hands to `flags`."""
    results = {}
    for path in sorted([*ROOT.glob("eval/*.py"), *ROOT.glob("train/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("flags.parse", "flags.parse_flags"):
                module = f"{path.parent.name}.{path.stem}"
                results[module] = getattr(importlib.import_module(module), ast.unparse(node.args[0]))
    return results


COMMANDS = commands()


def bare(hint):
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def of_texts(hint) -> bool:
    return hint is str or (get_origin(hint) is not Literal and any(map(of_texts, get_args(hint))))


def text_fields(record: type, prefix: str = "") -> dict[str, object]:
    """The fields of a dataclass, and of those in it, that hold texts: their types by name."""
    results, hints = {}, get_type_hints(record, include_extras=True)
    for field in dataclasses.fields(record):
        hint, inside = hints[field.name], bare(hints[field.name])
        if tyro.conf.Suppress in get_args(hint):  # no flag of this dataclass
            continue
        if isinstance(inside, type) and dataclasses.is_dataclass(inside):
            flat = any(getattr(meta, "name", None) == "" for meta in get_args(hint))
            results |= text_fields(inside, prefix if flat else f"{prefix}{field.name}.")
        elif of_texts(hint):
            results[prefix + field.name] = hint
    return results


def values(command, names) -> dict[str, str | tuple]:
    holders = [command, *(getattr(command, name, None) for name in ("experiment", "evaluation"))]
    return {name: next(getattr(holder, name) for holder in holders if hasattr(holder, name)) for name in names}


def test_every_command_is_seen():
    assert len(COMMANDS) >= 13
    assert {"eval.sweep", "eval.report", "train.finetune", "train.export", "train.tokenizer"} < set(COMMANDS)


@pytest.mark.parametrize("module", COMMANDS)
def test_a_home_folder_is_found_in_every_path_of_a_command(module, toy_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    command, texts = COMMANDS[module], text_fields(flags.reduced(COMMANDS[module]))
    paths = {name: hint for name, hint in texts.items() if holds_path(hint)}
    assert set(texts) - set(paths) <= NO_PATHS
    positional = [name for name, hint in paths.items() if "Positional" in str(hint)]
    flagged = [name for name in paths if name not in positional]
    argv = [f"~/{name}" for name in positional]
    argv += [word for name in flagged for word in (f"--{name.replace('_', '-')}", f"~/{name}")]
    own = {field.name for field in dataclasses.fields(command) if field.default is dataclasses.MISSING}
    argv += [word for name in own & set(NEEDED) for word in (f"--{name.replace('_', '-')}", NEEDED[name])]
    if "experiment" in own:
        parsed = flags.parse(command, "", [toy_config, *argv])
    else:
        parsed = flags.parse_flags(command, "", argv)
    for name, value in values(parsed, [*positional, *flagged]).items():
        assert value in (f"{tmp_path}/{name}", (f"{tmp_path}/{name}",))


def test_a_home_folder_is_found_in_a_config_file(toy_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text(f"""
from dataclasses import replace

from prism_jax.experiments import recipe as configs

evaluation = configs.Evaluation(adapter="~/a", tuned="~/t@5", split="~/no path")
config = replace(configs.load({toy_config!r}), weights="~/w", data_source="~/d", evaluation=evaluation)
""")
    experiment = recipe.load("~/mine.py")
    evaluation = experiment.evaluation
    printed = (experiment.weights, experiment.data_source, evaluation.adapter, evaluation.tuned, evaluation.split)
    assert printed == (*(f"{tmp_path}/{name}" for name in ("w", "d", "a", "t@5")), "~/no path")
    assert expand(experiment) == experiment
    with pytest.raises(InputError, match="no config file '~/none.py'"):
        recipe.load("~/none.py")


def test_a_home_folder_is_found_from_python(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PRISM_JAX_CACHE", "~/cache")
    (tmp_path / "train.txt").write_text("text")
    assert data.load("text", "train", "~").documents == ["text"]
    assert assets.cache_dir() == tmp_path / "cache"
