"""Checkpoints of a run, with Orbax: what is trained, the optimiser, the position in the data."""

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
from prism_jax.experiments.run_files import RunConfig, Saved, Score, read_config
from prism_jax.parallel.processes import from_terminal, is_terminal, several
from prism_jax.parallel.transfer import replicated

SCORE = "score"
"""The metric by which checkpoints are compared: the task's own, with its sign changed where lower is better."""


class NoCheckpoints:
    """Stands in for the manager beside the terminal, which keeps the checkpoints of a run of several processes."""

    def all_steps(self) -> list[int]:
        return []

    def best_step(self) -> None:
        return None

    def wait_until_finished(self) -> None:
        pass

    def close(self) -> None:
        pass


def open_manager(run: Path) -> ocp.CheckpointManager | NoCheckpoints:
    """The checkpoints in `run/checkpoints`: the last two and the best one are kept. Written in the background.

    Of several processes, the terminal alone keeps them.
    """
    if not is_terminal():
        return NoCheckpoints()
    policies = ocp.checkpoint_managers.preservation_policy
    best = policies.BestN(get_metric_fn=lambda metrics: metrics[SCORE], n=1)
    keep = policies.AnyPreservationPolicy([policies.LatestN(2), best])
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="terminal")
    options = ocp.CheckpointManagerOptions(
        preservation_policy=keep,
        best_fn=lambda metrics: metrics[SCORE],
        multiprocessing_options=alone if several() else ocp.options.MultiprocessingOptions(),
        create=not several(),  # Orbax refuses to make a folder that some processes don't use
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
    """Moves checkpoints that Orbax can't even list into `run/damaged`; says which. Called on the terminal."""
    return [_set_aside(run, step, "its metrics can't be read") for step in _unreadable(run)]


def _unreadable(run: Path) -> list[int]:
    def is_unreadable(step: int) -> bool:
        try:
            records.parse((run / "checkpoints" / str(step) / "metrics" / "metrics").read_bytes(), Score)
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
    manager: ocp.CheckpointManager | NoCheckpoints, like: Any, data: grain.DatasetIterator, recipe: str
) -> tuple[Any, int | None, list[str]]:
    """The last state that is whole, with `data` set to its position.
    Later ones are moved into the run's folder `damaged`.

    Args:
      manager: of the run.
      like: a state of the same structure, shapes and shardings.
      data: the iterator to set.
      recipe: of the run, as it was saved.

    Returns:
      The state and its step (`like` and None where nothing was saved yet), and why later ones were passed over.

    Raises:
      InputError: if there are checkpoints, but none is whole and of this run.
    """
    if not several():
        return _restore_last(manager, like, data, recipe)

    def on_terminal() -> tuple[Any, int | None, list[str], Any]:
        here = jax.device_put(jax.device_get(like), jax.local_devices()[0])
        state, step, damaged = _restore_last(manager, here, data, recipe)
        return jax.device_get(state), step, damaged, data.get_state()

    state, step, damaged, position = from_terminal(on_terminal)
    data.set_state(position)
    return jax.tree.map(lambda x, own: replicated(own.sharding.mesh, x), state, like), step, damaged


def _restore_last(
    manager: ocp.CheckpointManager | NoCheckpoints, like: Any, data: grain.DatasetIterator, recipe: str
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
        if restored["data"].get("recipe") != recipe:
            damaged[step] = f"checkpoint {step} in {manager.directory} is of another run; train into a new folder"
            continue
        data.set_state(restored["data"]["position"])
        run = Path(manager.directory).parent
        reasons = [_set_aside(run, *each) for each in damaged.items()]
        manager.reload()  # what is not there any more is neither the last nor the best
        return restored["state"], step, reasons
    if damaged:
        raise InputError(next(iter(damaged.values())))
    return like, None, []


@dataclass(frozen=True)
class Trained:
    """Trained parameters of a run.

    Attributes:
      run: folder of the run.
      config: what its config.json says.
      step: at which they were saved.
      params: those that were trained, as numpy arrays.
    """

    run: Path
    config: RunConfig
    step: int
    params: dict[str, Any]


def load(run: Path, step: int | None = None) -> Trained:
    """A checkpoint of a run: the best one, or that of a step.

    Raises:
      InputError: if there is none, or it is damaged.
    """
    said = check(run, step)
    with closing(open_manager(run)) as manager:
        chosen = manager.best_step() if step is None else step
        assert chosen is not None  # a checkpoint without a score is unreadable
        state = _restore(manager, chosen)["state"]
    return Trained(run, said, chosen, jax.device_get(state["params"]))


def check(run: Path, step: int | None = None) -> RunConfig:
    """What the config.json of a run says, if a checkpoint is there, that of a step or any; reads none.

    Raises:
      InputError: if there is none.
    """
    if not (run / "checkpoints").is_dir():
        raise InputError(f"no checkpoints in {run}; give the --out folder of a train.finetune run")
    said, steps = read_config(run), steps_in(run)
    if not steps:
        raise InputError(f"no whole checkpoint in {run}; go on with train.finetune --resume")
    if step is not None and step not in steps:
        raise InputError(f"no checkpoint of step {step} in {run}; there are {', '.join(map(str, steps))}")
    return said


def steps_in(run: Path) -> list[int]:
    """The steps whose checkpoints are in the folder of a run, in order.
    Orbax gives a checkpoint its name when it is whole."""
    return sorted(int(folder.name) for folder in (run / "checkpoints").glob("*") if folder.name.isdecimal())


def named(source: str | Path) -> Trained:
    """The checkpoint that `RUN` (the best one) or `RUN@STEP` names, see `load`."""
    return load(*run_and_step(source))


def run_and_step(source: str | Path) -> tuple[Path, int | None]:
    """The folder and the step that `RUN` (no step) or `RUN@STEP` names."""
    at_step = re.fullmatch(r"(.+)@(\d+)", str(source))
    if at_step and not Path(source).is_dir():
        return Path(at_step[1]), int(at_step[2])
    return Path(source), None


def chain(trained: Trained) -> list[Trained]:
    """The checkpoint, the one that its run started from, and so on."""
    before = trained.config["started_from"]
    return [trained, *(chain(load(Path(before["run"]), before["step"])) if before else ())]


SAME_MODEL = ("model", "weights", "revision", "dataset", "num_tokens", "image_size")
"""The fields of an experiment that say what was trained."""

SAME_TRAINING = (
    *("epochs", "batch_size", "accumulate", "learning_rate", "schedule", "warmup", "weight_decay", "clip"),
    *("label_smoothing", "dropout", "augment", "fresh", "frozen", "lora_rank", "lora_alpha", "limit"),
    *("validation", "validation_limit", "evaluate_every", "seed"),
)
"""The fields of `Training` that must be the same when a run goes on,
in the order in which checkpoints' digests hold them."""


def recipe_digest(experiment: recipe.Experiment, fields: tuple[str, ...]) -> str:
    """Stands for the values of some fields, such as `weights` or `training.seed`."""
    asked = _flat(recipe.to_json(experiment))
    return hashlib.sha256(json.dumps([asked[name] for name in fields]).encode()).hexdigest()[:16]


def check_same_model(run: Path, said: Mapping[str, Any], experiment: recipe.Experiment, *more: str) -> None:
    """Raises InputError if a run trained another model than the experiment's, or on other data,
    or with `more` different.

    The experiment's class may extend that of the run: an idea is tried with the weights that are there.
    """
    if said["model"] in (kind.__name__ for kind in experiment.model.__mro__):
        said = {**said, "model": experiment.model.__name__}
    if differing := differences(said, experiment, (*SAME_MODEL, *more)):
        raise InputError(f"the run in {run} was trained with another {', '.join(differing)}; use the same values")


def differences(before: Mapping[str, Any], experiment: recipe.Experiment, fields: tuple[str, ...]) -> list[str]:
    """The fields, such as `weights` or `training.seed`, in which what a config.json says differs from an experiment."""
    asked, before = _flat(recipe.to_json(experiment)), _flat(before)
    return [name for name in fields if asked[name] != before.get(name)]


def _flat(said: Mapping[str, Any]) -> dict[str, Any]:
    return {**said} | {f"training.{name}": value for name, value in said["training"].items()}


def best_step(run: Path) -> int | None:
    """The step of the best checkpoint; None where there is none."""
    with closing(open_manager(run)) as manager:
        return manager.best_step()


def _restore(manager: ocp.CheckpointManager, step: int, like: Any = None) -> Any:
    """The state of a step and what was saved with it, if the values are those that were saved:
    Orbax has no checksum of them.

    Checkpoints of earlier versions carry no digest, and are taken as they are.
    """
    args = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
    reason = "its values are not those that were saved"
    try:
        restored = manager.restore(step, args=args)
        said = records.checked(restored["data"], Saved)
        whole = said.get("sha256") in (None, digest_of_state(jax.device_get(restored["state"])))
        whole = whole and said["position"]["next_index"] == step
    except Exception as error:  # whatever Orbax and TensorStore make of a damaged file
        reason, whole = one_line(error), False
    if not whole:
        raise InputError(
            f"checkpoint {step} in {manager.directory} is damaged or of another model: {reason}; there are "
            f"{', '.join(map(str, sorted(manager.all_steps())))}"
        )
    return restored


def digest_of_state(state: Any) -> str:
    """Of the arrays of a state on the host, in whatever structure they stand."""
    arrays = map(np.asarray, jax.tree.leaves(state))
    each = (hashlib.sha256(f"{x.dtype}{x.shape}".encode() + x.tobytes()).hexdigest() for x in arrays)
    return hashlib.sha256("".join(sorted(each)).encode()).hexdigest()
