"""Checkpoints of a run, with Orbax: trained parameters, the optimiser's state, and the position in the data."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp

from prism_jax import records
from prism_jax.errors import InputError, one_line
from prism_jax.experiments import recipe
from prism_jax.experiments.run_files import RunConfig, Saved, SavedScore, read_config
from prism_jax.parallel.processes import from_terminal, is_terminal, several
from prism_jax.parallel.transfer import replicated

SCORE = "score"
"""Name of the metric that ranks checkpoints: the task's score, negated if lower is better."""


class NoCheckpoints:
    """Empty replacement for the manager on processes other than 0. Process 0 keeps the checkpoints."""

    def all_steps(self) -> list[int]:
        return []

    def best_step(self) -> None:
        return None

    def wait_until_finished(self) -> None:
        pass

    def close(self) -> None:
        pass


def open_manager(run: Path) -> ocp.CheckpointManager | NoCheckpoints:
    """Opens the checkpoints in `run/checkpoints`. The last two and the best one are kept. Orbax writes them in the
    background.

    With several processes, only process 0 keeps checkpoints.
    """
    if not is_terminal():
        return NoCheckpoints()
    policies = ocp.checkpoint_managers.preservation_policy
    best = policies.BestN(get_metric_fn=lambda metrics: metrics[SCORE], n=1)
    keep = policies.AnyPreservationPolicy([policies.LatestN(2), best])
    on_process_0 = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="terminal"
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=keep,
        best_fn=lambda metrics: metrics[SCORE],
        multiprocessing_options=on_process_0 if several() else ocp.options.MultiprocessingOptions(),
        create=not several(),  # Orbax refuses to create a folder that some processes don't use
    )
    if unreadable := _unreadable(run):
        raise InputError(
            f"checkpoint {unreadable[0]} in {run} is damaged: its metrics can't be read; "
            "train.finetune --resume sets it aside"
        )
    if several():
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    return ocp.CheckpointManager((run / "checkpoints").absolute(), options=options)


def set_aside_unreadable(run: Path) -> list[str]:
    """Moves checkpoints that Orbax can't list into `run/damaged`, and returns a message for each. Called on process
    0."""
    return [_set_aside(run, step, "its metrics can't be read") for step in _unreadable(run)]


def _unreadable(run: Path) -> list[int]:
    def is_unreadable(step: int) -> bool:
        try:
            records.parse((run / "checkpoints" / str(step) / "metrics" / "metrics").read_bytes(), SavedScore)
            return False
        except (OSError, ValueError):
            return True

    return list(filter(is_unreadable, steps_in(run)))


def _set_aside(run: Path, step: int, reason: str) -> str:
    aside = run / "damaged" / str(step)
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    (run / "checkpoints" / str(step)).rename(aside)
    return f"checkpoint {step}, now in {aside}: {reason}"


def restore_last(
    manager: ocp.CheckpointManager | NoCheckpoints, like: Any, data: grain.DatasetIterator, digest: str
) -> tuple[Any, int | None, list[str]]:
    """Restores the last complete state, and sets `data` to its position. Moves later, damaged ones into the run's
    folder `damaged`.

    Args:
      manager: the run's checkpoints.
      like: a state with the same structure, shapes and shardings.
      data: the data iterator, whose position is set.
      digest: of the run's recipe, as saved, see `recipe_digest`.

    Returns:
      The state, its step, and why later checkpoints were skipped. `like` and None if nothing was saved yet.

    Raises:
      InputError: if there are checkpoints, but none is complete and of this run.
    """
    if not several():
        return _restore_last(manager, like, data, digest)

    def on_process_0() -> tuple[Any, int | None, list[str], Any]:
        local_state = jax.device_put(jax.device_get(like), jax.local_devices()[0])
        state, step, damaged = _restore_last(manager, local_state, data, digest)
        return jax.device_get(state), step, damaged, data.get_state()

    state, step, damaged, position = from_terminal(on_process_0)
    data.set_state(position)
    return jax.tree.map(lambda x, like: replicated(like.sharding.mesh, x), state, like), step, damaged


def _restore_last(
    manager: ocp.CheckpointManager | NoCheckpoints, like: Any, data: grain.DatasetIterator, digest: str
) -> tuple[Any, int | None, list[str]]:
    if isinstance(manager, NoCheckpoints):
        return like, None, []
    damaged: dict[int, str] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            restored = _restore(manager, step, jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        except InputError as error:
            damaged[step] = str(error)
            continue
        if restored["data"].get("recipe") != digest:
            damaged[step] = f"checkpoint {step} in {manager.directory} is of another run; train into a new folder"
            continue
        data.set_state(restored["data"]["position"])
        run = Path(manager.directory).parent
        reasons = [_set_aside(run, *step_and_reason) for step_and_reason in damaged.items()]
        manager.reload()  # a moved checkpoint must not count as the last or the best
        return restored["state"], step, reasons
    if damaged:
        raise InputError(next(iter(damaged.values())))
    return like, None, []


@dataclass(frozen=True)
class Trained:
    """Trained parameters of a run.

    Attributes:
      run: the run's folder.
      config: content of its config.json.
      step: the step of the checkpoint.
      params: the trained parameters, as NumPy arrays.
    """

    run: Path
    config: RunConfig
    step: int
    params: dict[str, Any]


def load(run: Path, step: int | None = None) -> Trained:
    """Loads a checkpoint of a run: the best one, or that of a step.

    Raises:
      InputError: if it does not exist, or is damaged.
    """
    config = check(run, step)
    with closing(open_manager(run)) as manager:
        chosen = manager.best_step() if step is None else step
        assert chosen is not None  # a checkpoint without a score is unreadable
        state = _restore(manager, chosen)["state"]
    return Trained(run, config, chosen, jax.device_get(state["params"]))


def check(run: Path, step: int | None = None) -> RunConfig:
    """Returns the config.json of a run after checking that a checkpoint exists: that of `step`, or any. Reads no
    checkpoint.

    Raises:
      InputError: if it does not exist.
    """
    if not (run / "checkpoints").is_dir():
        raise InputError(f"no checkpoints in {run}; give the --out folder of a train.finetune run")
    config, steps = read_config(run), steps_in(run)
    if not steps:
        raise InputError(f"no whole checkpoint in {run}; go on with train.finetune --resume")
    if step is not None and step not in steps:
        raise InputError(f"no checkpoint of step {step} in {run}; there are {', '.join(map(str, steps))}")
    return config


def steps_in(run: Path) -> list[int]:
    """Returns the steps of the checkpoints in a run's folder, in order. Orbax renames a checkpoint to its step when it
    is complete."""
    return sorted(int(folder.name) for folder in (run / "checkpoints").glob("*") if folder.name.isdecimal())


def named(source: str | Path) -> Trained:
    """Loads the checkpoint named by `RUN` (the best one) or `RUN@STEP`, see `load`."""
    return load(*run_and_step(source))


def run_and_step(source: str | Path) -> tuple[Path, int | None]:
    """Returns the folder and the step in `RUN` (step None) or `RUN@STEP`."""
    at_step = re.fullmatch(r"(.+)@(\d+)", str(source))
    if at_step and not Path(source).is_dir():
        return Path(at_step[1]), int(at_step[2])
    return Path(source), None


def chain(trained: Trained) -> list[Trained]:
    """Returns a checkpoint, the checkpoint that its run started from, and so on."""
    before = trained.config["started_from"]
    return [trained, *(chain(load(Path(before["run"]), before["step"])) if before else ())]


SAME_MODEL = ("model", "weights", "revision", "dataset", "num_tokens", "image_size")
"""Fields of an experiment that define the trained model and its data."""

SAME_TRAINING = (
    *("epochs", "batch_size", "accumulate", "learning_rate", "schedule", "warmup", "weight_decay", "clip"),
    *("label_smoothing", "dropout", "augment", "fresh", "frozen", "lora_rank", "lora_alpha", "limit"),
    *("validation", "validation_limit", "evaluate_every", "seed"),
)
"""Fields of `Training` that must not change when a run resumes, in the order of checkpoints' digests."""


def recipe_digest(experiment: recipe.Experiment, fields: tuple[str, ...]) -> str:
    """Returns a digest of the values of some fields, for example `weights` or `training.seed`."""
    values = _flat(recipe.to_json(experiment))
    return hashlib.sha256(json.dumps([values[name] for name in fields]).encode()).hexdigest()[:16]


def check_same_model(run: Path, config: Mapping[str, Any], experiment: recipe.Experiment, *more: str) -> None:
    """Raises InputError if the model or data of a run differ from the experiment's, or the fields `more` do.

    The experiment's model class may extend the run's class, to try an idea with existing weights.
    """
    if config["model"] in (kind.__name__ for kind in experiment.model.__mro__):
        config = {**config, "model": experiment.model.__name__}
    if differing := differences(config, experiment, (*SAME_MODEL, *more)):
        raise InputError(f"the run in {run} was trained with different {', '.join(differing)}; use the same values")


def differences(before: Mapping[str, Any], experiment: recipe.Experiment, fields: tuple[str, ...]) -> list[str]:
    """Returns the fields in which a config.json differs from an experiment, for example `weights` or
    `training.seed`."""
    wanted, before = _flat(recipe.to_json(experiment)), _flat(before)
    return [name for name in fields if wanted[name] != before.get(name)]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config} | {f"training.{name}": value for name, value in config["training"].items()}


def best_step(run: Path) -> int | None:
    """Returns the step of the best checkpoint; None if there is none."""
    with closing(open_manager(run)) as manager:
        return manager.best_step()


def _restore(manager: ocp.CheckpointManager, step: int, like: Any = None) -> Any:
    """Restores the state of a step and its metadata. Checks the values with our digest, since Orbax has no checksum.

    Checkpoints of earlier versions have no digest, and are not checked.
    """
    args = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
    reason = "its values are not those that were saved"
    try:
        restored = manager.restore(step, args=args)
        saved = records.checked(restored["data"], Saved)
        whole = saved.get("sha256") in (None, digest_of_state(jax.device_get(restored["state"])))
        whole = whole and saved["position"]["next_index"] == step
    except Exception as error:  # Orbax and TensorStore may raise anything for a damaged file
        reason, whole = one_line(error), False
    if not whole:
        raise InputError(
            f"checkpoint {step} in {manager.directory} is damaged or of another model: {reason}; there are "
            f"{', '.join(map(str, sorted(manager.all_steps())))}"
        )
    return restored


def digest_of_state(state: Any) -> str:
    """Returns a digest of the arrays of a state on the host, independent of the tree's structure."""
    arrays = map(np.asarray, jax.tree.leaves(state))
    digests = (hashlib.sha256(f"{x.dtype}{x.shape}".encode() + x.tobytes()).hexdigest() for x in arrays)
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
