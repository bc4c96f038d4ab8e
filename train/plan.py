"""Plans a run: checks its input, and determines its settings, data and initial weights."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import jax

from prism_jax import cost
from prism_jax.cli.entry import output_folder
from prism_jax.data.datasets import Dataset, changes, contents
from prism_jax.data.text import bucket_lengths
from prism_jax.errors import InputError
from prism_jax.exchange.baselines import WholeSequence
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.experiments import checkpoint, exchange_arrays, recipe
from prism_jax.experiments.build import (
    check_run,
    check_same_classes,
    check_same_held_out,
    check_sources,
    load_training_data,
)
from prism_jax.experiments.recipe import Experiment, Training
from prism_jax.experiments.run_files import read_config
from prism_jax.parallel.mesh import on_mesh
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.processes import from_terminal, several
from prism_jax.parallel.runner import PlacedRunner
from prism_jax.tasks import num_labels
from prism_jax.weights.peft_config import is_adapter
from train import trainable
from train.log import check_tensorboard

SCORED_BY = ("exchange", "num_parts")
"""Fields that define how the held-out examples are scored. The scores of a run are comparable only if they don't
change."""

SAME_HELD_OUT = ("data_source", "training.validation_limit")
"""Fields that define the held-out examples. Two runs with equal values hold out the same examples."""

STAYS = (
    *checkpoint.SAME_MODEL,
    *SCORED_BY,
    *("data_source", "buckets", "compute_dtype"),
    *(f"training.{name}" for name in checkpoint.SAME_TRAINING),
)
"""Fields of an experiment that must not change when a run resumes."""

ADDED = ("exchange_arrays", "training.distill")
"""More of them, which runs of earlier versions did not note."""


@dataclass(frozen=True)
class Plan:
    """A run that is ready to begin or resume. Its input is checked and its data are read; its weights are not.

    Attributes:
      experiment: the experiment. Its adapter is the one that training starts from, folded into the weights; None for
        none.
      folder: folder of config.json, checkpoints and metrics.jsonl.
      resume: whether the run may resume from a checkpoint in `folder`.
      start: checkpoint of another run that training starts from; None for the experiment's weights and its adapter.
      settings: settings to train through. Each step draws one.
      scored: setting for scoring the held-out examples.
      lengths: bucket lengths, in tokens.
      runners: runners of all settings, by number of parts.
      dataset: examples to train on.
      held_out: examples for choosing the best checkpoint.
      data: fingerprints of both, for config.json.
    """

    experiment: Experiment
    folder: Path
    resume: bool
    start: checkpoint.Trained | None
    settings: tuple[Setting, ...]
    scored: Setting
    lengths: tuple[int, ...]
    runners: Mapping[int, PlacedRunner]
    dataset: Dataset
    held_out: Dataset
    data: dict[str, dict[str, Any]]

    @property
    def training(self) -> Training:
        return self.experiment.training

    @property
    def recipe_digest(self) -> str:
        """Digest of the fields that must not change. It is stored in checkpoints."""
        return checkpoint.recipe_digest(self.experiment, STAYS)

    @property
    def config(self) -> dict[str, Any]:
        """Content of the run's config.json."""
        start = self.start and {"run": str(self.start.run.absolute()), "step": self.start.step}
        return recipe.to_json(self.experiment) | {
            "label_names": getattr(self.dataset, "label_names", ()),
            "num_labels": num_labels(self.dataset),
            "started_from": start,
            "data": self.data,
        }


def plan_run(experiment: Experiment, out: str, *, resume: bool = False, start: str | None = None) -> Plan:
    """Plans a run. Wrong input is refused before the data are read, and wrong data before the weights are.

    Args:
      experiment: the experiment to train. Its `setting` is for scoring the held-out examples.
      out: folder of the run.
      resume: whether to resume the run in `out` from its last complete checkpoint.
      start: `RUN` or `RUN@STEP`, a checkpoint of another run to start from, or a folder with an adapter in PEFT's
        layout.

    Raises:
      InputError: if the input is wrong.
    """
    experiment = replace(experiment, evaluation=replace(experiment.evaluation, adapter=None, tuned=None))
    training, lengths = experiment.training, bucket_lengths(experiment.buckets, experiment.num_tokens)
    settings = tuple(Setting(exchange, parts) for parts, exchange in product(training.parts, training.exchanges))
    scored = experiment.setting
    _check_recipe(experiment)
    for setting in (*settings, scored):
        setting.check(lengths)
    _check_batch_sizes(experiment)
    if training.tensorboard:
        check_tensorboard()
    runners = {setting.num_parts: _runner(training, setting.num_parts) for setting in (*settings, scored)}
    run, adapter = (None, start) if start and is_adapter(start) else (start, None)
    if run:
        check_run(experiment, run, "training.validation")
    folder = output_folder(out)
    from_terminal(lambda: _check_folder(folder, experiment, resume))
    trained = from_terminal(lambda: _checkpoint_to_start_from(folder, run, experiment))
    adapter = from_terminal(lambda: _adapter_to_start_from(folder, adapter, trained))
    experiment = replace(experiment, evaluation=replace(experiment.evaluation, adapter=adapter))
    checked = check_sources(experiment, fresh=training.fresh)
    if trained is None:
        _check_teacher(training, {path.split("/")[0] for path in checked.adapter_params})
    exchange_arrays.check(experiment.exchange_arrays)
    model = checked.pretrained.model
    sizes = [(setting, training.batch_size) for setting in settings]
    for setting, batch_size in (*sizes, (scored, experiment.batch_size)):
        cost.check_memory(model, setting.exchange, setting.num_parts, experiment.num_tokens, batch_size)
    if trained is None:
        exchange_arrays.check_complete(experiment.exchange_arrays, model, (x.exchange for x in (*settings, scored)))
        trainable.check(experiment, model, training.exchanges)

    dataset, held_out = load_training_data(experiment)
    data = from_terminal(lambda: _unchanged_contents(folder, {"training": dataset, "held_out": held_out}))
    if trained:
        check_same_classes(trained, dataset)
        if not checkpoint.differences(trained.config, experiment, SAME_HELD_OUT):
            check_same_held_out(trained, held_out)
    return Plan(experiment, folder, resume, trained, settings, scored, lengths, runners, dataset, held_out, data)


def _check_recipe(experiment: Experiment) -> None:
    experiment.check()
    training = experiment.training
    if training.parts == (1,) and (idle := [x for x in training.exchanges if x != WholeSequence()]):
        raise InputError(
            f"{text_of(idle[0])} on training.parts 1 exchanges nothing; add --training.parts, such as 2 4, or leave "
            "training.exchanges out"
        )


def _check_teacher(training: Training, of_adapter: Collection[str]) -> None:
    """Raises InputError if a teacher would answer at random.

    Args:
      training: the recipe of a run that starts from no other run.
      of_adapter: top-level parameters of which an adapter holds some.
    """
    factors = training.distill
    drawn = [name for name in training.fresh if name == "encoder" or name not in of_adapter]
    if drawn and (factors.logits or (factors.teaches and "encoder" in drawn)):
        raise InputError(
            f"training.distill has no teacher yet: {', '.join(drawn)} would be drawn at random; train it without an "
            "exchange first, and give that run with --start"
        )


def _check_batch_sizes(experiment: Experiment) -> None:
    data = experiment.training.data or 1
    sizes = {"training.batch_size": experiment.training.batch_size, "batch_size": experiment.batch_size}
    for name, size in sizes.items():
        if size % data:
            raise InputError(f"{name} is {size}; choose a multiple of training.data, {data}")


def _runner(training: Training, num_parts: int) -> PlacedRunner:
    """Returns the runner of `num_parts` parts in training.

    Raises:
      InputError: if there are too few devices, or processes with unused devices.
    """
    if several() and num_parts * (training.data or 0) != jax.device_count():
        raise InputError(
            f"{num_parts} parts and training.data {training.data} don't use each of the {jax.device_count()} devices "
            "of all processes; choose every num_parts and training.parts so that, times training.data, they do"
        )
    return on_one_device(num_parts) if training.data is None else on_mesh(num_parts, data=training.data)


def _check_folder(folder: Path, experiment: Experiment, resume: bool) -> None:
    """Checks that a run can begin or resume in a folder.

    Raises:
      InputError: if it can't.
    """
    if "[" in str(folder.absolute()):
        raise InputError(
            f"Orbax can't read checkpoints from {folder.absolute()}, as '[' means a pattern there; choose another --out"
        )
    if not (folder / "config.json").exists():
        if (folder / "checkpoints").exists():
            raise InputError(f"{folder} holds checkpoints without the config.json of their run; choose another --out")
        return
    if not resume:
        raise InputError(f"{folder} holds a run already; add --resume to go on with it, or choose another --out")
    config_json = read_config(folder)
    noted = {*config_json, *(f"training.{name}" for name in config_json["training"])}
    if differing := checkpoint.differences(config_json, experiment, (*STAYS, *(x for x in ADDED if x in noted))):
        raise InputError(
            f"{folder} was started with different {', '.join(differing)}; choose another --out, or the same values"
        )


def _checkpoint_to_start_from(folder: Path, start: str | None, experiment: Experiment) -> checkpoint.Trained | None:
    """Returns the checkpoint of another run that training starts from, or None for the experiment's weights.

    For a new run, this is the checkpoint given by `start`. A resumed run uses the checkpoint noted in its config.json.

    Raises:
      InputError: if it does not exist, is of another model, or `start` differs from the checkpoint noted by the run.
    """
    if not (folder / "config.json").exists():
        trained = checkpoint.named(start) if start else None
    else:
        noted = read_config(folder)["started_from"]
        if start:
            run, step = checkpoint.run_and_step(start)
            if noted is None or (str(run.absolute()), step or noted["step"]) != (noted["run"], noted["step"]):
                begun = f"{noted['run']}@{noted['step']}" if noted else "no other run"
                raise InputError(f"{folder} was started from {begun}; leave --start out to go on with it")
        trained = checkpoint.load(Path(noted["run"]), noted["step"]) if noted else None
    if trained:
        checkpoint.check_same_model(trained.run, trained.config, experiment, "training.validation")
    return trained


def _adapter_to_start_from(folder: Path, given: str | None, trained: checkpoint.Trained | None) -> str | None:
    """Returns the adapter that is folded into the weights before training, or None if there is none.

    For a new run, this is the given one, or that of the run that training starts from. A resumed run uses the one
    noted in its config.json.

    Raises:
      InputError: if the given adapter differs from the one noted by the run.
    """
    path = str(Path(given).absolute()) if given else None
    if not (folder / "config.json").exists():
        return path or (trained.config["adapter"] if trained else None)
    noted = read_config(folder)["adapter"]
    if path not in (None, noted):
        raise InputError(f"{folder} was started from {noted or 'no adapter'}; leave --start out to go on with it")
    return noted


def _unchanged_contents(folder: Path, datasets: dict[str, Dataset]) -> dict[str, dict[str, Any]]:
    """Returns the fingerprints of data sets by name, for config.json.

    Raises:
      InputError: if the run in `folder` began with other data. Runs of earlier versions noted no fingerprints; they are
        not checked.
    """
    now = {name: contents(dataset) for name, dataset in datasets.items()}
    noted: Mapping[str, Any] | None = read_config(folder).get("data") if (folder / "config.json").exists() else None
    changed = [f"{name}: {change}" for name in now if noted and (change := changes(noted[name], now[name]))]
    if changed:
        raise InputError(
            f"the data have changed since {folder} was started; {'; '.join(changed)}; choose another --out, "
            "or give the same data"
        )
    return now
