"""Kinds of weights in a sweep. Checks the assumptions of recovery: tuned and control start from base and train equally
long."""

from dataclasses import dataclass

from prism_jax.errors import InputError
from prism_jax.exchange.baselines import WholeSequence
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.experiments import checkpoint
from prism_jax.experiments.run_files import RunConfig, read_config

BASE, TUNED, CONTROL = "base", "tuned", "control"
"""Kinds of weights: the initial weights; base tuned through an exchange; base tuned equally long without an
exchange."""


ONE_DEVICE = Setting(WholeSequence(), 1)


@dataclass(frozen=True)
class Planned:
    """A planned record of a sweep.

    Attributes:
      num_tokens: N.
      setting: the exchange and the number of parts.
      weights: kind of weights.
      impossible: the reason why it can't run; None if it can.
    """

    num_tokens: int
    setting: Setting
    weights: str
    impossible: str | None = None


def impossible_reason(setting: Setting, lengths: tuple[int, ...]) -> str | None:
    """Returns the reason why a setting can't run on one of the lengths; None if it can."""
    try:
        setting.check(lengths)
    except InputError as error:
        return str(error)
    return None


MAY_DIFFER = (
    "distill",
    "exchanges",
    "parts",
    "data",
    "log_every",
    "evaluate_every",
    "tensorboard",
    "validation_limit",
    "fresh",
)
"""Fields of `training` that may differ between tuned and control."""


def remarks(base: str | None, tuned: str | None, control: str | None) -> list[str]:
    """Returns, as texts, where tuned and control did not start from base, where control went through an exchange, and
    where the two were trained differently. Adapters, and the history of a config's weights, can't be checked.

    Args:
      base: `RUN` or `RUN@STEP` of train.finetune, an adapter, or None for the config's weights.
      tuned: as base, or None if there is none.
      control: as tuned.
    """
    base_run, tuned_run, control_run = map(_run, (base, tuned, control))
    violations = []
    if base and base_run:
        run, step = checkpoint.run_and_step(base)
        start = {"run": str(run.absolute()), "step": checkpoint.best_step(run) if step is None else step}
        for kind, config in (("tuned", tuned_run), ("control", control_run)):
            if config and (before := config["started_from"]) != start:
                other = f"{before['run']}@{before['step']}" if before else "the config's own weights"
                violations.append(f"{kind} started from {other}, not from base, {start['run']}@{start['step']}")
    if control_run:
        through = [text for text in control_run["training"]["exchanges"] if text != text_of(WholeSequence())]
        violations += [f"control was trained through {text}" for text in through]
    if tuned_run and control_run:
        tuned_training, control_training = dict(tuned_run["training"]), dict(control_run["training"])
        differing = [
            name
            for name in tuned_training
            if name not in MAY_DIFFER and tuned_training[name] != control_training.get(name)
        ]
        violations += [
            f"{name} was {tuned_training[name]} for tuned, {control_training.get(name)} for control"
            for name in differing
        ]
    return violations


def _run(source: str | None) -> RunConfig | None:
    """Returns the config.json of a run; None if the source is no run."""
    run = checkpoint.run_and_step(source)[0] if source else None
    return read_config(run) if run and (run / "config.json").is_file() else None


def is_same_source(source: str, other: str) -> bool:
    """Returns whether two sources of weights are the same, however their folder and their best step are spelled."""
    (folder, step), (other_folder, other_step) = map(checkpoint.run_and_step, (source, other))
    if folder.resolve() != other_folder.resolve():
        return False
    steps = step, other_step
    return step == other_step or (None in steps and checkpoint.best_step(folder) in steps)
