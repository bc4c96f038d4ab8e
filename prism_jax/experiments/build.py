"""Loads the data and the model of an experiment."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prism_jax import data, weights
from prism_jax.assets import hub
from prism_jax.data.datasets import Corpus, Dataset, Labelled, changes, contents, outline, pieces, subset
from prism_jax.data.labels import shown
from prism_jax.errors import InputError
from prism_jax.exchange.arrays import EXCHANGE
from prism_jax.experiments import checkpoint, recipe
from prism_jax.experiments.checkpoint import Trained, load
from prism_jax.experiments.recipe import Experiment
from prism_jax.experiments.run_files import RunConfig
from prism_jax.layers import lora
from prism_jax.models import vit
from prism_jax.models.base import Model
from prism_jax.parallel.processes import from_terminal
from prism_jax.progress import say
from prism_jax.tasks import num_labels
from prism_jax.trees import flatten, unflatten
from prism_jax.weights import Pretrained

HELD_OUT = "held_out"
"""Split of the examples that training holds out of its training split."""

LONGEST_PIECE = 1_000_000
"""Most characters of a piece of a long text. It bounds the memory of tokenisation."""


def load_data(experiment: Experiment, split: str) -> Dataset:
    """Returns the examples of a split to score.

    Raises:
      InputError: if the data set or the split is unknown.
    """
    if split == HELD_OUT:
        return load_training_data(experiment)[1]
    say(f"reading data: {experiment.dataset}, {split}")
    return from_terminal(lambda: data.load(experiment.dataset, split, experiment.data_source), outline)


def load_training_data(experiment: Experiment) -> tuple[Dataset, Dataset]:
    """Returns the training examples, and the examples held out of their split.

    Plain text with too few documents to hold one out is divided into pieces first.

    Raises:
      InputError: if the data set is unknown, too small to hold an example out, or without labels.
    """
    say(f"reading data: {experiment.dataset}, train")
    return from_terminal(lambda: _divided(experiment), lambda both: tuple(map(outline, both)))


def _divided(experiment: Experiment) -> tuple[Dataset, Dataset]:
    training = experiment.training
    whole = data.load(experiment.dataset, "train", experiment.data_source)
    if isinstance(whole, Labelled) and whole.labels is None:
        raise InputError(f"{whole.name} has no labels to train with; choose another dataset or data_source")
    if isinstance(whole, Corpus) and not 0 < round(training.validation * len(whole)) < len(whole):
        share = min(training.validation, 1 - training.validation) / 2  # two pieces or more to hold out
        length = round(share * sum(map(len, whole.documents)))
        whole = pieces(whole, min(max(length, 1), LONGEST_PIECE))
    order = np.random.default_rng(0).permutation(len(whole))
    number = round(training.validation * len(whole))
    if not 0 < number < len(whole):
        raise InputError(
            f"{len(whole)} training examples and a share of {training.validation} give {number} to validate on; "
            "choose another training.validation"
        )
    train, held_out = (whole.take(np.sort(rows)) for rows in (order[number:], order[:number]))
    return subset(train, training.limit), subset(held_out, training.validation_limit)


def load_model(
    experiment: Experiment,
    dataset: Dataset | None,
    *,
    fresh: Iterable[str] = (),
    reader: hub.Reader = hub.read_tensors,
) -> Pretrained:
    """Returns the model of an experiment for a data set, with the weights that the experiment names.

    Args:
      experiment: names the weights.
      dataset: gives the number of classes; None for a model without classes.
      fresh: top-level parameters to draw at random.
      reader: reads the tensors.
    """
    hub.check_source(experiment.weights)
    config_json = recipe.to_json(experiment) | {
        "num_labels": num_labels(dataset),
        "label_names": getattr(dataset, "label_names", ()),
    }
    pretrained = _load(experiment.model, config_json, fresh, experiment.compute_dtype, reader)
    pretrained.model.check(experiment.num_tokens)
    return pretrained


def check_sources(experiment: Experiment, *, fresh: Iterable[str] = ()) -> weights.Checked:
    """Checks the names of data and weights, and all that can be checked before they are read.

    Returns:
      The weights that were found, and an adapter's parameters.

    Raises:
      InputError: as `data.check` and `weights.find`.
    """
    data.check(experiment.dataset, experiment.data_source)
    return find_model(experiment, fresh=fresh)


def find_model(experiment: Experiment, *, fresh: Iterable[str] = ()) -> weights.Checked:
    """Checks the weights of `load_model` before they are read."""
    hub.check_source(experiment.weights)
    source = _source(recipe.to_json(experiment))
    return weights.find(experiment.model, experiment.weights, fresh=fresh, **source)


def find_model_of_run(experiment: Experiment, config_json: RunConfig) -> weights.Checked:
    """Checks the weights of `load_run` before they are read, for a run with this config.json."""
    kind, drawn = experiment.model, _drawn(experiment.model, config_json, experiment.training.fresh)
    num_labels = config_json["num_labels"]
    return weights.find(kind, config_json["weights"], num_labels=num_labels, fresh=drawn, **_source(config_json))


def _source(config_json: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `weights.find` and `weights.load` that stand in config.json."""
    num_tokens = None if config_json["image_size"] else config_json["num_tokens"]
    return {"revision": config_json["revision"], "adapter": config_json["adapter"], "num_tokens": num_tokens}


def load_run(
    trained: Trained,
    kind: type[Model],
    compute_dtype: str = "float32",
    fresh: Iterable[str] = (),
    reader: hub.Reader = hub.read_tensors,
) -> Pretrained:
    """Returns a model of the class `kind` with the weights of a run as a checkpoint left them, see `with_trained`.

    Parameters in `fresh` that a class adds to that of the run are as they are drawn.
    """
    drawn = _drawn(kind, trained.config, fresh)
    return with_trained(_load(kind, trained.config, drawn, compute_dtype, reader), trained)


def _drawn(kind: type[Model], config_json: RunConfig, fresh: Iterable[str]) -> Iterable[str]:
    """Returns the top-level parameters that `load_run` draws at random, before it takes those of the run."""
    added = () if config_json["model"] == kind.__name__ else fresh
    return dict.fromkeys((*config_json["training"]["fresh"], *added))


def _load(
    kind: type[Model], config_json: Mapping[str, Any], fresh: Iterable[str], compute_dtype: str, reader: hub.Reader
) -> Pretrained:
    """Returns a model of the class `kind` with the weights that config.json names."""
    pretrained = weights.load(
        kind,
        config_json["weights"],
        num_labels=config_json["num_labels"],
        label_names=config_json["label_names"],
        fresh=fresh,
        seed=config_json["training"]["seed"],
        compute_dtype=compute_dtype,
        reader=reader,
        **_source(config_json),
    )
    side = config_json["image_size"]
    if not side:
        return pretrained
    if not hasattr(pretrained.model.config, "image_size"):
        raise InputError(f"{kind.__name__} takes no images; leave image_size out")
    model, params = vit.with_image_size(pretrained.model, pretrained.params, (side, side))
    return replace(pretrained, model=model, params=params)


def with_trained(pretrained: Pretrained, trained: Trained) -> Pretrained:
    """Returns the model with the parameters that a run trained, and with its adapters.

    A run that started from another one holds only its own parameters; the others are read from that run.

    Raises:
      InputError: if it is of another model, or it needs the run that it started from and that is gone.
    """
    new = flatten(trained.params)
    if (before := trained.config["started_from"]) and not set(flatten(pretrained.params)) <= set(new):
        pretrained = with_trained(pretrained, from_terminal(lambda: load(Path(before["run"]), before["step"])))
    training = trained.config["training"]
    own = flatten(with_adapters(pretrained.params, training["lora_rank"], training["lora_alpha"], training["seed"]))
    of_model = {path: value for path, value in new.items() if path.split("/")[0] != EXCHANGE}
    if any(path not in own or own[path].shape != value.shape for path, value in of_model.items()):
        raise InputError(
            f"the checkpoint in {trained.run} is of another model; give one that was trained with this config"
        )
    return replace(pretrained, params=unflatten(own | new))


def check_run(experiment: Experiment, source: str, *more: str) -> RunConfig:
    """Checks a run before anything is loaded. Returns its config.json.

    Args:
      experiment: uses the run.
      source: `RUN` or `RUN@STEP`.
      more: fields that must be equal in the run and the experiment, see `checkpoint.check_same_model`.

    Raises:
      InputError: if it is not there, or of another model.
    """

    def check() -> RunConfig:
        run, step = checkpoint.run_and_step(source)
        config_json = checkpoint.check(run, step)
        checkpoint.check_same_model(run, config_json, experiment, *more)
        return config_json

    return from_terminal(check)


def check_same_classes(trained: Trained, dataset: Dataset | None) -> None:
    """Raises InputError if a run was trained with other classes than those of a data set, or in another order."""
    names = tuple(trained.config["label_names"])
    if isinstance(dataset, Labelled) and names != tuple(dataset.label_names):
        raise InputError(
            f"the run in {trained.run} was trained with the classes {shown(names)}; "
            f"{dataset.name} has {shown(tuple(dataset.label_names))}; use the data_source that it was trained with"
        )


def check_same_held_out(trained: Trained, held_out: Dataset) -> None:
    """Raises InputError if a run held out other examples than these. Runs without a record of them pass."""

    def check() -> None:
        before = trained.config.get("data")
        if changed := before and changes(before["held_out"], contents(held_out)):
            raise InputError(
                f"the data have changed since the run in {trained.run} was trained: {changed} held out; "
                "give the same data, or name another data_source if other data are intended"
            )

    from_terminal(check)


def with_adapters(params: Any, rank: int, alpha: float, seed: int) -> Any:
    """Returns the parameters with LoRA adapters, or without them if the rank is 0. Existing adapters stay.

    Raises:
      InputError: if they are of another rank or scale.
    """
    if not rank:
        return lora.merge(params)
    if not lora.has_adapters(params):
        return lora.add(params, lora.LoRA(rank, alpha), jax.random.key(seed))
    flat = flatten(params)
    ranks = {x.shape[1] for path, x in flat.items() if path.endswith("lora_a")}
    scales = {float(x) for path, x in flat.items() if path.endswith("lora_scale")}
    if (ranks, scales) != ({rank}, {float(np.float32(alpha / rank))}):
        raise InputError(
            f"the run to start from has adapters of rank {ranks} and scale {scales}; "
            "choose the same training.lora_rank and lora_alpha"
        )
    return params
