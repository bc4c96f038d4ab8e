"""Loads a scoring: a model, its weights of one or more kinds, and the examples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeGuard

import numpy as np

from eval.scoring.variants import BASE, impossible_reason, is_same_source
from prism_jax import cost, data
from prism_jax.assets import hub
from prism_jax.data.datasets import Corpus, Dataset, even_indices, subset
from prism_jax.data.text import bucket_lengths, bucket_of
from prism_jax.exchange import arrays
from prism_jax.exchange.setting import Setting
from prism_jax.experiments import checkpoint, exchange_arrays, recipe
from prism_jax.experiments.build import (
    HELD_OUT,
    check_run,
    check_same_classes,
    check_same_held_out,
    find_model,
    find_model_of_run,
    load_data,
    load_model,
    load_run,
)
from prism_jax.experiments.recipe import Evaluation, Experiment
from prism_jax.experiments.run_files import RunConfig
from prism_jax.layers import lora
from prism_jax.models.base import Model
from prism_jax.parallel.processes import check_same, from_terminal, is_terminal
from prism_jax.parallel.runner import PlacedRunner
from prism_jax.progress import say
from prism_jax.tasks import prepare
from prism_jax.tasks.base import Task
from prism_jax.tasks.predict import Predictor
from prism_jax.trees import flatten, unflatten
from prism_jax.weights import Checked, Pretrained
from prism_jax.weights.peft_config import is_adapter


@dataclass(frozen=True)
class Variant:
    """Weights of one kind.

    Attributes:
      params: parameters, with adapters folded in.
      source: the run, adapter or weights that they come from.
    """

    params: Any
    source: str


@dataclass(frozen=True)
class Scoring:
    """A model with its weights, and the examples to score it on.

    Attributes:
      experiment: the config.
      base: the model, with the weights of kind `BASE`.
      variants: weights by kind.
      dataset: the examples.
      index: indices of the examples in their split; None for plain text, whose scored windows count from 0.
      task: the examples as arrays for the model.
    """

    experiment: Experiment
    base: Pretrained
    variants: Mapping[str, Variant]
    dataset: Dataset
    index: np.ndarray | None
    task: Task

    @property
    def model(self) -> Model:
        return self.base.model

    @property
    def buckets(self) -> tuple[int, ...]:
        return bucket_lengths(self.experiment.buckets, self.experiment.num_tokens)

    @property
    def limit(self) -> int:
        """Number of examples to score, for plain text of windows at each N; 0 for all."""
        return _limit(self.experiment.evaluation)

    def at(self, num_tokens: int) -> "Scoring":
        """Returns the same scoring with another N."""
        if num_tokens == self.experiment.num_tokens:
            return self
        task = prepare(self.dataset, self.base, num_tokens, max_windows=self.limit)
        return replace(self, experiment=replace(self.experiment, num_tokens=num_tokens), task=task)

    def predictor(self, setting: Setting, run: PlacedRunner) -> Predictor:
        """Returns a predictor of all examples in one setting, for weights of any kind."""
        return Predictor(self.model, self.task, setting, run, self.experiment.batch_size, self.buckets)

    def share_in_every_part(self, num_parts: int) -> float:
        """Returns the share of the sequences with a real token in every part. Assumes padding on the right."""
        lengths = self.task.lengths
        part_len = -(-bucket_of(lengths, self.buckets) // num_parts)
        return float(np.mean(lengths > (num_parts - 1) * part_len))

    def to_json(self) -> dict[str, Any]:
        """Returns the fields of results.json for model, weights and examples."""
        return {
            "config": recipe.to_json(self.experiment),
            "model": f"{type(self.model).__name__}, {self.experiment.weights}",
            "weights": {kind: variant.source for kind, variant in self.variants.items()},
            "dataset": self.dataset.name,
        }


def load_scoring(
    experiment: Experiment,
    settings: Sequence[Setting],
    sources: Mapping[str, str | None],
    *,
    lengths: Iterable[int] = (),
    fresh: tuple[str, ...] = (),
    batch_size: int | None = None,
) -> Scoring:
    """Loads the model, its weights, and the examples of an experiment. Each tensor of the base weights is read once.

    Args:
      experiment: the config.
      settings: all settings to score. Each is checked for memory.
      sources: by kind of weights: a run of train.finetune (its best checkpoint, or `RUN@STEP`) or a folder with an
        adapter in PEFT's layout; None for the experiment's weights.
      lengths: values of N for `Scoring.at`, checked like the experiment's.
      fresh: top-level parameters of the experiment's weights to initialise at random, where scores don't matter.
      batch_size: B to check the memory for; None for the experiment's.

    Raises:
      InputError: if a source, the data or a setting does not fit the model, or a process's weights differ from those of
        process 0.
    """
    check_scoring(experiment, settings, sources, lengths=lengths, fresh=fresh, batch_size=batch_size)
    evaluation = experiment.evaluation
    dataset = load_data(experiment, evaluation.split)
    say(f"reading weights: {', '.join(dict.fromkeys(source or experiment.weights for source in sources.values()))}")
    reader = cache(hub.read_tensors)
    loaded = {kind: load_variant(experiment, dataset, source, fresh, reader) for kind, source in sources.items()}
    base = loaded[BASE]
    limit, index = _limit(evaluation), None
    if not isinstance(dataset, Corpus):
        index, dataset = even_indices(len(dataset), limit), subset(dataset, limit)
    task = prepare(dataset, base, experiment.num_tokens, max_windows=limit)
    variants = {
        kind: Variant(
            _with_same_arrays(kind, pretrained, settings), sources[kind] or evaluation.adapter or experiment.weights
        )
        for kind, pretrained in loaded.items()
    }
    check_same("weights", {kind: variant.params for kind, variant in variants.items()})
    width_of = base.model.config.stack.width_of
    if any(arrays.has_arrays(setting.exchange, width_of) for setting in settings):
        _note_other_source(experiment.exchange_arrays, variants[BASE].source)
    return Scoring(experiment, base, variants, dataset, index, task)


def check_scoring(
    experiment: Experiment,
    settings: Sequence[Setting],
    sources: Mapping[str, str | None],
    *,
    lengths: Iterable[int] = (),
    fresh: tuple[str, ...] = (),
    batch_size: int | None = None,
) -> None:
    """Raises the errors of `load_scoring` that show before data and weights are read, with the same arguments."""
    exchange_arrays.check(experiment.exchange_arrays)
    data.check(experiment.dataset, experiment.data_source)
    # All runs, before anything is fetched for one of them.
    of_runs = {source: _config_of_run(experiment, source) for source in dict.fromkeys(sources.values())}
    found = {source: _find(experiment, source, config_json, fresh) for source, config_json in of_runs.items()}
    model = found[sources[BASE]].pretrained.model
    for num_tokens in dict.fromkeys((experiment.num_tokens, *lengths)):
        if experiment.image_size is None:  # else the model is given other positions
            model.check(num_tokens)
        for setting in settings:
            if impossible_reason(setting, (num_tokens,)):  # another N is for this one
                continue
            cost.check_memory(
                model, setting.exchange, setting.num_parts, num_tokens, batch_size or experiment.batch_size
            )
    if not any(map(is_run, sources.values())):
        exchange_arrays.check_complete(experiment.exchange_arrays, model, (setting.exchange for setting in settings))


def _limit(evaluation: Evaluation) -> int:
    """Returns the number of examples to score, for plain text of windows; 0 for all. Training scored all held-out
    examples."""
    return 0 if evaluation.split == HELD_OUT else evaluation.limit


def _with_same_arrays(kind: str, pretrained: Pretrained, settings: Sequence[Setting]) -> Any:
    """Returns the parameters with the arrays of the exchanges of the settings, and with those of no others, since
    all kinds of weights run through the same programs. A note names the exchanges whose trained arrays are missing."""
    stack, exchanges = pretrained.model.config.stack, [setting.exchange for setting in settings]
    params = flatten(pretrained.params)
    before = arrays.starts(exchanges, stack.num_layers, stack.width_of)
    if is_terminal() and (names := sorted({path.split("/")[1] for path in before.keys() - params.keys()})):
        print(f"note: the {kind} weights have no trained arrays of {', '.join(names)}; their initial values are used")
    stated = {path for one in exchanges for path in arrays.stated(one, stack.num_layers, stack.width_of)}
    used = {path: x for path, x in params.items() if path.split("/")[0] != arrays.EXCHANGE or path in stated}
    return unflatten({path: np.asarray(x) for path, x in before.items()} | used)


def _note_other_source(path: str | None, base: str) -> None:
    """Prints a note if the arrays of exchanges were made for other weights than the base weights."""
    if path is not None and is_terminal() and not is_same_source(source := exchange_arrays.source_of(path), base):
        print(f"note: the arrays in {path} were made for {source}, but the base weights are {base}")


def load_variant(
    experiment: Experiment,
    dataset: Dataset | None,
    source: str | None,
    fresh: tuple[str, ...] = (),
    reader: hub.Reader = hub.read_tensors,
) -> Pretrained:
    """Returns the model of an experiment with weights of one kind, adapters folded in.

    Args:
      experiment: the config, with the model.
      dataset: the examples; None if they don't matter.
      source: source of the weights, see `load_scoring`.
      fresh: see `load_scoring`.
      reader: reads the tensors of the base weights.

    Raises:
      InputError: if the source is neither a run nor an adapter, or belongs to another model.
    """
    pretrained = _without_arrays(experiment, dataset, source, fresh, reader)
    return exchange_arrays.with_arrays(pretrained, experiment.exchange_arrays)


def _without_arrays(
    experiment: Experiment,
    dataset: Dataset | None,
    source: str | None,
    fresh: tuple[str, ...],
    reader: hub.Reader,
) -> Pretrained:
    if source is None:
        return load_model(experiment, dataset, fresh=fresh, reader=reader)
    if is_adapter(source):
        return load_model(_with_adapter(experiment, source), dataset, reader=reader)
    trained = from_terminal(lambda: checkpoint.named(source))
    checkpoint.check_same_model(trained.run, trained.config, experiment, *_same_fields(experiment))
    check_same_classes(trained, dataset)
    if dataset is not None and experiment.evaluation.split == HELD_OUT:
        check_same_held_out(trained, dataset)
    pretrained = load_run(trained, experiment.model, experiment.compute_dtype, experiment.training.fresh, reader)
    return replace(pretrained, params=lora.merge(pretrained.params))


def check_variant(experiment: Experiment, source: str | None) -> Checked:
    """Raises the errors of `load_variant` that show before weights are read. Returns the model without parameters."""
    return _find(experiment, source, _config_of_run(experiment, source))


def _config_of_run(experiment: Experiment, source: str | None) -> RunConfig | None:
    """Returns the config.json of a run, after checking that it is there, and of the experiment's model; None for other
    sources."""
    return check_run(experiment, source, *_same_fields(experiment)) if is_run(source) else None


def _find(
    experiment: Experiment, source: str | None, config_json: RunConfig | None, fresh: tuple[str, ...] = ()
) -> Checked:
    """Returns the model of a source without parameters. `config_json` is that of a run."""
    if config_json is not None:
        return find_model_of_run(experiment, config_json)
    if source is not None:
        return find_model(_with_adapter(experiment, source))
    return find_model(experiment, fresh=fresh)


def is_run(source: str | None) -> TypeGuard[str]:
    """Returns whether a source of weights is a run, see `load_scoring`."""
    return source is not None and not is_adapter(source)


def _same_fields(experiment: Experiment) -> tuple[str, ...]:
    """Returns fields, besides the model's, that must be equal to the run's: for held-out examples, those that select
    them."""
    held_out = ("data_source", "buckets", "compute_dtype", "training.validation", "training.validation_limit")
    return held_out if experiment.evaluation.split == HELD_OUT else ()


def _with_adapter(experiment: Experiment, folder: str) -> Experiment:
    return replace(experiment, evaluation=replace(experiment.evaluation, adapter=folder))
