"""What a run is made of: its settings, data, model, steps and folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from prism_jax import cost
from prism_jax.cli.entry import output_folder, write
from prism_jax.data.datasets import Dataset, changes, contents
from prism_jax.data.text import bucket_lengths
from prism_jax.errors import InputError
from prism_jax.exchange.baselines import WholeSequence
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.experiments import checkpoint, recipe
from prism_jax.experiments.build import (
    check_run,
    check_same_classes,
    check_same_held_out,
    check_sources,
    load_model,
    load_training_data,
    with_adapters,
    with_trained,
)
from prism_jax.experiments.recipe import Experiment, Training
from prism_jax.experiments.run_files import read_config
from prism_jax.experiments.saving import saving
from prism_jax.forward import encode
from prism_jax.parallel.mesh import on_mesh
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.processes import check_same, from_terminal, several
from prism_jax.parallel.runner import PlacedRunner, Runner
from prism_jax.tasks import num_labels, prepare
from prism_jax.tasks.base import Task
from prism_jax.tasks.batches import steps_per_epoch, training_batches
from prism_jax.tasks.head import Head
from prism_jax.tasks.predict import Predictor
from prism_jax.trees import count, flatten, unflatten
from train.log import Log, check_tensorboard
from train.loop import Run
from train.optimizer import optimizer
from train.parameters import divide
from train.step import init_state, make_step

SCORED_BY = ("exchange", "num_parts")
"""What the held-out examples are scored through: scores through several would not compare."""

SAME_HELD_OUT = ("data_source", "training.validation_limit")
"""What runs have in common that start one from another and hold out the same examples."""

STAYS = (
    *checkpoint.SAME_MODEL,
    *SCORED_BY,
    *("data_source", "buckets", "compute_dtype"),
    *(f"training.{name}" for name in checkpoint.SAME_TRAINING),
)
"""What must be the same when a run goes on."""


def finetune(experiment: Experiment, out: str, *, resume: bool = False, start: str | None = None) -> dict:
    """Trains, keeping in `out` what is needed to go on after an interruption.

    Args:
      experiment: its `training` says how; its `setting` what the held-out examples are scored through.
      out: folder for config.json, checkpoints and metrics.jsonl.
      resume: go on with the run in `out`, from its last whole checkpoint.
      start: a run, as `checkpoint.named` has it, from which training starts.

    Returns:
      What was reached.

    Raises:
      InputError: for wrong values, before anything slow starts.
      RunError: where the loss is no finite number, or training was interrupted.
    """
    experiment = replace(experiment, evaluation=replace(experiment.evaluation, adapter=None, tuned=None))
    training, lengths = experiment.training, bucket_lengths(experiment.buckets, experiment.num_tokens)
    settings = [Setting(exchange, parts) for parts, exchange in product(training.parts, training.exchanges)]
    scored = experiment.setting
    _check_recipe(experiment, (*settings, scored), lengths)
    runners = {setting.num_parts: runner(training, setting.num_parts) for setting in (*settings, scored)}
    if start:
        check_run(experiment, start, "training.validation")
    folder = output_folder(out)
    from_terminal(lambda: _check_folder(folder, experiment, resume))
    trained_before = from_terminal(lambda: _trained_before(folder, start, experiment))
    check_sources(experiment, fresh=training.fresh)

    dataset, held_out = load_training_data(experiment)
    data = from_terminal(lambda: _same_data(folder, {"training": dataset, "held_out": held_out}))
    if trained_before:
        check_same_classes(trained_before, dataset)
        if not checkpoint.differences(trained_before.config, experiment, SAME_HELD_OUT):
            check_same_held_out(trained_before, held_out)
    pretrained = load_model(experiment, dataset, fresh=training.fresh)
    if trained_before:
        pretrained = with_trained(pretrained, trained_before)
    params = with_adapters(pretrained.params, training.lora_rank, training.lora_alpha, training.seed)
    stack, N = pretrained.model.config.stack, experiment.num_tokens
    for setting, size in (*((one, training.batch_size) for one in settings), (scored, experiment.batch_size)):
        cost.check_memory(stack, setting.exchange, setting.num_parts, N, size)
    check_same("weights", params)
    trained, frozen = divide(params, training)
    task = prepare(
        dataset, pretrained, experiment.num_tokens, augment=training.augment, smoothing=training.label_smoothing
    )
    of_epoch = steps_per_epoch(task, lengths, training.batch_size)
    num_updates = -(-max(round(training.epochs * of_epoch), 1) // training.accumulate)
    num_steps = num_updates * training.accumulate
    label_names = getattr(dataset, "label_names", ())
    before = trained_before and {"run": str(trained_before.run.absolute()), "step": trained_before.step}
    said = recipe.to_json(experiment) | {"label_names": label_names, "num_labels": num_labels(dataset)}
    said |= {"started_from": before, "data": data}

    rule = optimizer(training, num_updates)
    run = Run(
        steps={
            setting: make_step(_losses(task, pretrained.model, setting, runners[setting.num_parts]), rule)
            for setting in settings
        },
        runners=runners,
        frozen=runners[settings[0].num_parts].replicate(frozen),
        training=training,
        recipe=checkpoint.recipe_digest(experiment, STAYS),
        predictor=Predictor(
            pretrained.model,
            prepare(held_out, pretrained, experiment.num_tokens),
            scored,
            runners[scored.num_parts],
            experiment.batch_size,
            lengths,
        ),
    )
    state = runners[settings[0].num_parts].replicate(init_state(trained, rule, training.seed))
    batches = iter(training_batches(task, lengths, training.batch_size, training.seed))
    every = training.evaluate_every or of_epoch
    unreadable = from_terminal(lambda: checkpoint.set_aside_unreadable(folder))
    with saving(folder) as manager:
        state, restored, damaged = checkpoint.restore_last(manager, state, batches, run.recipe)
        for reason in (*unreadable, *damaged):
            print(f"passed over: {reason}")
        if resume and restored is None:
            print(f"no checkpoint in {out} yet; training starts from the beginning")
        write(folder / "config.json", json.dumps(said, indent=2))
        print(
            f"{len(dataset)} examples, {of_epoch} steps an epoch, {num_steps} steps; {count(trained):,} parameters trained "
            f"through {', '.join(map(str, settings))}; checkpoints chosen by {scored}"
        )
        with Log(folder, restored or 0, tensorboard=training.tensorboard) as log:
            return run.to_the_end(state, batches, num_steps, every, manager, log)


def runner(training: Training, num_parts: int) -> PlacedRunner:
    """Where `num_parts` parts run in training.

    Raises:
      InputError: if there are too few devices, or processes that would have none of them.
    """
    if several() and num_parts * (training.data or 0) != jax.device_count():
        raise InputError(
            f"{num_parts} parts and training.data {training.data} don't use each of the {jax.device_count()} devices of all processes; "
            "choose every num_parts and training.parts so that, times training.data, they do"
        )
    return on_one_device(num_parts) if training.data is None else on_mesh(num_parts, data=training.data)


def _losses(task: Task, model: nn.Module, setting: Setting, run: Runner):
    def losses(trained, frozen, batch):
        parts, targets = batch
        params = unflatten(frozen | flatten(trained))
        rows_BRD = encode(model, params, parts, setting.exchange, run)
        return task.losses(Head(model, params, run), rows_BRD, parts, targets)

    return losses


def _trained_before(out: Path, start: str | None, experiment: Experiment) -> checkpoint.Trained | None:
    """What a run starts from: as it was when the run began, where it goes on."""
    before = _named_or_noted(out, start)
    if before:
        checkpoint.check_same_model(before.run, before.config, experiment, "training.validation")
    return before


def _named_or_noted(out: Path, start: str | None) -> checkpoint.Trained | None:
    if not (out / "config.json").exists():
        return checkpoint.named(start) if start else None
    before = read_config(out)["started_from"]
    if start:
        run, step = checkpoint.run_and_step(start)
        if before is None or (str(run.absolute()), step or before["step"]) != (before["run"], before["step"]):
            begun = f"{before['run']}@{before['step']}" if before else "no other run"
            raise InputError(f"{out} was started from {begun}; leave --start out to go on with it")
    return checkpoint.load(Path(before["run"]), before["step"]) if before else None


def _check_recipe(experiment: Experiment, settings: Sequence[Setting], lengths: tuple[int, ...]) -> None:
    experiment.check()
    training = experiment.training
    if training.parts == (1,) and (idle := [one for one in training.exchanges if one != WholeSequence()]):
        raise InputError(
            f"{text_of(idle[0])} on training.parts 1 exchanges nothing; add --training.parts, such as 2 4, or leave training.exchanges out"
        )
    for setting in settings:
        setting.check(lengths)
    data = training.data or 1
    sizes = {"training.batch_size": training.batch_size, "batch_size": experiment.batch_size}
    for name, size in sizes.items():
        if size % data:
            raise InputError(f"{name} is {size}; choose a multiple of training.data, {data}")
    if training.tensorboard:
        check_tensorboard()


def _check_folder(out: Path, experiment: Experiment, resume: bool) -> None:
    if "[" in str(out.absolute()):
        raise InputError(
            f"Orbax can't read checkpoints from {out.absolute()}, as '[' means a pattern there; choose another --out"
        )
    if not (out / "config.json").exists():
        if (out / "checkpoints").exists():
            raise InputError(f"{out} holds checkpoints without the config.json of their run; choose another --out")
        return
    if not resume:
        raise InputError(f"{out} holds a run already; add --resume to go on with it, or choose another --out")
    if differing := checkpoint.differences(read_config(out), experiment, STAYS):
        raise InputError(
            f"{out} was started with another {', '.join(differing)}; choose another --out, or the same values"
        )


def _same_data(out: Path, parts: dict[str, Dataset]) -> dict[str, dict]:
    """What tells the data of a run from others, for its config.json: by the name of the part, what is trained on and held out.

    Raises:
      InputError: if the run in `out` began with other data. Runs of earlier versions don't tell; they go on.
    """
    now = {name: contents(part) for name, part in parts.items()}
    before: Mapping[str, Any] | None = read_config(out).get("data") if (out / "config.json").exists() else None
    said = before and [f"{name}: {changed}" for name, one in now.items() if (changed := changes(before[name], one))]
    if said:
        raise InputError(
            f"the data have changed since {out} was started; {'; '.join(said)}; choose another --out, or give the same data"
        )
    return now
