"""Checkpoints of a run, with Orbax."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from prism_jax import config
from prism_jax.errors import InputError

METRIC = "validation_accuracy"
"""The metric of which the highest is the best."""


def open_manager(run: Path) -> ocp.CheckpointManager:
    """The checkpoints in `run/checkpoints`: the last one and the best one are kept."""
    policies = ocp.checkpoint_managers.preservation_policy
    best = policies.BestN(get_metric_fn=lambda metrics: metrics[METRIC], n=1)
    keep = policies.AnyPreservationPolicy([policies.LatestN(1), best])
    options = ocp.CheckpointManagerOptions(preservation_policy=keep, best_fn=lambda metrics: metrics[METRIC])
    return ocp.CheckpointManager((run / "checkpoints").absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, state: Any, metrics: dict[str, float]) -> None:
    """Saves in the background; `manager.close()` waits for it."""
    manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)


def restore(manager: ocp.CheckpointManager, step: int, like: Any) -> Any:
    """The state of a step, in the structure and shapes of `like`.

    Raises:
      InputError: if it is damaged or does not fit.
    """
    return _guarded(manager, step, ocp.args.StandardRestore(jax.eval_shape(lambda: like)))


@dataclass(frozen=True)
class Trained:
    """Trained parameters of a run.

    Attributes:
      run: folder of the run.
      config: what its config.json says: the experiment, and the names of the labels.
      step: at which they were saved.
      params: as numpy arrays.
    """

    run: Path
    config: dict[str, Any]
    step: int
    params: dict[str, Any]


def load_best(run: Path) -> Trained:
    """The best checkpoint of a run.

    Raises:
      InputError: if there is none, or it is damaged.
    """
    if not (run / "checkpoints").is_dir():
        raise InputError(f"no checkpoints in {run}; give the --out folder of a train.finetune run")
    said = _read_config(run)
    with open_manager(run) as manager:
        step = manager.best_step()
        if step is None:
            raise InputError(f"no whole checkpoint in {run}; go on with train.finetune --resume")
        state = _guarded(manager, step, ocp.args.StandardRestore())
    return Trained(run, said, step, jax.device_get(state["params"]))


def check_same_model(run: Path, experiment: config.Experiment) -> None:
    """Raises InputError if a run trained another model than the experiment's, or on other data."""
    if differing := differences(run, experiment, ("model", "weights", "revision", "dataset", "num_tokens")):
        raise InputError(f"the run in {run} was trained with another {', '.join(differing)}; use the same values")


def differences(run: Path, experiment: config.Experiment, fields: tuple[str, ...]) -> list[str]:
    """The fields in which the experiment of a run differs from `experiment`."""
    asked, before = config.to_json(experiment), _read_config(run)
    return [name for name in fields if asked[name] != before.get(name)]


def _read_config(run: Path) -> dict:
    try:
        return json.loads((run / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{run}/config.json can't be read: {error}; train into a new folder") from error


def _guarded(manager: ocp.CheckpointManager, step: int, args: ocp.args.CheckpointArgs) -> Any:
    try:
        return manager.restore(step, args=args)
    except Exception as error:  # whatever Orbax and TensorStore make of a damaged file
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"checkpoint {step} in {manager.directory} is damaged or of another model: {reason} ...; train into a new folder"
        ) from error
