"""The weights that a sweep scores, and checks of what recovery assumes:
tuned and control start from base and train equally long."""

from dataclasses import dataclass

from prism_jax.exchange.baselines import WholeSequence
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.experiments import checkpoint
from prism_jax.experiments.run_files import RunConfig, read_config

BASE, TUNED, CONTROL = "base", "tuned", "control"
"""Weights to score: those to begin with; tuned from these through an exchange; tuned from these as long without one."""


ONE_DEVICE = Setting(WholeSequence(), 1)


@dataclass(frozen=True)
class Planned:
    """A row to come.

    Attributes:
      num_tokens: N.
      setting: the exchange and the number of parts.
      weights: which of them.
      impossible: why it can't run; None if it can.
    """

    num_tokens: int
    setting: Setting
    weights: str
    impossible: str | None = None


MAY_DIFFER = ("exchanges", "parts", "data", "log_every", "evaluate_every", "tensorboard", "validation_limit", "fresh")
"""What of the training of the two may differ."""


def remarks(base: str | None, tuned: str | None, control: str | None) -> list[str]:
    """What differs from that. Nothing is known of adapters, nor of what a config's own weights went through.

    Args:
      base: `RUN` or `RUN@STEP` of train.finetune, an adapter, or None for the config's own weights.
      tuned: likewise, or None where there is none.
      control: likewise.
    """
    base_run, tuned_run, control_run = map(_run, (base, tuned, control))
    found = []
    if base and base_run:
        run, step = checkpoint.run_and_step(base)
        start = {"run": str(run.absolute()), "step": checkpoint.best_step(run) if step is None else step}
        for kind, said in (("tuned", tuned_run), ("control", control_run)):
            if said and (before := said["started_from"]) != start:
                other = f"{before['run']}@{before['step']}" if before else "the config's own weights"
                found.append(f"{kind} started from {other}, not from base, {start['run']}@{start['step']}")
    if control_run:
        through = [one for one in control_run["training"]["exchanges"] if one != text_of(WholeSequence())]
        found += [f"control was trained through {one}" for one in through]
    if tuned_run and control_run:
        here, there = dict(tuned_run["training"]), dict(control_run["training"])
        differing = [name for name in here if name not in MAY_DIFFER and here[name] != there.get(name)]
        found += [f"{name} was {here[name]} for tuned, {there.get(name)} for control" for name in differing]
    return found


def _run(source: str | None) -> RunConfig | None:
    """What the config.json of a run says; None for anything else."""
    run = checkpoint.run_and_step(source)[0] if source else None
    return read_config(run) if run and (run / "config.json").is_file() else None
