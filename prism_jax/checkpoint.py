"""Checkpoints of a run, with Orbax."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from prism_jax.errors import InputError

logging.getLogger("absl").setLevel(logging.ERROR)


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
      InputError: if it does not fit.
    """
    try:
        return manager.restore(step, args=ocp.args.StandardRestore(jax.eval_shape(lambda: like)))
    except (ValueError, KeyError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"checkpoint {step} in {manager.directory} does not fit this config: {reason}; train into a new folder"
        ) from error


def restore_best_params(run: Path) -> tuple[int, Any]:
    """The step and the trained parameters of the best checkpoint of a run, as numpy arrays.

    Raises:
      InputError: if there is none.
    """
    if not (run / "checkpoints").is_dir():
        raise InputError(f"no checkpoints in {run}; give the --out folder of a train.finetune run")
    with open_manager(run) as manager:
        step = manager.best_step()
        if step is None:
            raise InputError(f"no whole checkpoint in {run}; run train.finetune with --resume")
        state = manager.restore(step, args=ocp.args.StandardRestore())
    return step, jax.device_get(state["params"])
