"""Scores one setting (an exchange on a number of parts) on real data, with its cost."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from eval.scoring.cost_rows import Costs
from eval.scoring.rows import LastPart, Score, SettingFields
from eval.scoring.variants import BASE
from prism_jax import cost
from prism_jax.data.datasets import Corpus, Dataset, even_rows, subset
from prism_jax.data.text import bucket_lengths, bucket_of
from prism_jax.exchange.setting import Setting
from prism_jax.experiments import checkpoint
from prism_jax.experiments.build import (
    HELD_OUT,
    check_run,
    check_same_classes,
    check_same_held_out,
    check_sources,
    load_data,
    load_model,
    load_run,
)
from prism_jax.experiments.recipe import Experiment
from prism_jax.layers import lora
from prism_jax.parallel.processes import check_same, from_terminal
from prism_jax.tasks import prepare
from prism_jax.tasks.base import Task
from prism_jax.tasks.language import LanguageModelling
from prism_jax.tasks.predict import Predictor, rows_by_bucket
from prism_jax.weights import Pretrained, peft_files


@dataclass(frozen=True)
class Scoring:
    """What an experiment scores: a model, its weights of one kind or several, and the examples.

    Attributes:
      experiment: its config.
      model: the Linen module.
      params: by kind of weights, without adapters.
      sources: where each kind comes from.
      dataset: the examples.
      index: where each example stands in its split; None of plain text, whose windows count from 0.
      folder: with tokenizer or image processor.
      task: the examples as the model reads them.
    """

    experiment: Experiment
    model: nn.Module
    params: dict[str, Any]
    sources: dict[str, str]
    dataset: Dataset
    index: np.ndarray | None
    folder: Path | None
    task: Task

    @property
    def buckets(self) -> tuple[int, ...]:
        return bucket_lengths(self.experiment.buckets, self.experiment.num_tokens)

    def at(self, num_tokens: int) -> "Scoring":
        """The same with another N."""
        if num_tokens == self.experiment.num_tokens:
            return self
        task = prepare(self.dataset, Pretrained(self.model, None, self.folder), num_tokens)
        return replace(self, experiment=replace(self.experiment, num_tokens=num_tokens), task=task)

    def share_in_every_part(self, num_parts: int) -> float:
        """Share of the rows with a real token in every part; padding stands on the right."""
        lengths = self.task.lengths
        part_len = -(-bucket_of(lengths, self.buckets) // num_parts)
        return float(np.mean(lengths > (num_parts - 1) * part_len))


def load_scoring(
    experiment: Experiment, settings: list[Setting], sources: dict[str, str | None], *, fresh: tuple[str, ...] = ()
) -> Scoring:
    """The model, its weights, and the examples of an experiment.

    Args:
      experiment: what to score.
      settings: all that will be scored; refused if one does not fit the model.
      sources: by kind of weights, a run of train.finetune (its best checkpoint, or `RUN@STEP`) or a folder with an adapter in
        PEFT's layout; None for the experiment's own weights.
      fresh: first names of parameters of the experiment's own weights to be drawn at random, where scores don't matter.
    """
    for source in sources.values():
        check_variant(experiment, source, fresh)
    dataset = load_data(experiment, experiment.evaluation.split)
    variants = {kind: load_variant(experiment, dataset, source, fresh) for kind, source in sources.items()}
    pretrained = variants[BASE]
    for setting in settings:
        cost.check_memory(
            pretrained.model.config.stack,
            setting.exchange,
            setting.num_parts,
            experiment.num_tokens,
            experiment.batch_size,
        )
    limit = (
        0 if experiment.evaluation.split == HELD_OUT else experiment.evaluation.limit
    )  # held out is what training scored
    index = None if isinstance(dataset, Corpus) else even_rows(len(dataset), limit)
    dataset = subset(dataset, limit)
    task = prepare(dataset, pretrained, experiment.num_tokens)
    named = {kind: source or experiment.evaluation.adapter or experiment.weights for kind, source in sources.items()}
    params = {kind: one.params for kind, one in variants.items()}
    check_same("weights", params)
    return Scoring(experiment, pretrained.model, params, named, dataset, index, pretrained.folder, task)


def load_variant(
    experiment: Experiment, dataset: Dataset | None, source: str | None, fresh: tuple[str, ...] = ()
) -> Pretrained:
    """The model of an experiment, as a run left it or with an adapter in PEFT's layout; adapters folded in.

    Raises:
      InputError: if the source is neither, or of another model.
    """
    if source is None:
        return load_model(experiment, dataset, fresh=fresh)
    if _is_adapter(source):
        return load_model(_with_adapter(experiment, source), dataset)
    trained = from_terminal(lambda: checkpoint.named(source))
    checkpoint.check_same_model(trained.run, trained.config, experiment, *_alike(experiment))
    check_same_classes(trained, dataset)
    if dataset is not None and experiment.evaluation.split == HELD_OUT:
        check_same_held_out(trained, dataset)
    pretrained = load_run(trained, experiment.model, experiment.compute_dtype, experiment.training.fresh)
    return replace(pretrained, params=lora.merge(pretrained.params))


def check_variant(experiment: Experiment, source: str | None, fresh: tuple[str, ...] = ()) -> None:
    """Refuses what `load_variant` would, as far as it can be seen without the data set."""
    if source is None:
        check_sources(experiment, fresh=fresh)
    elif _is_adapter(source):
        check_sources(_with_adapter(experiment, source))


def check_runs(experiment: Experiment, sources: Iterable[str | None]) -> None:
    """Raises InputError for a run among the sources, see `load_scoring`, that is not there or of another model."""
    for source in sources:
        if source is not None and not _is_adapter(source):
            check_run(experiment, source, *_alike(experiment))


def _alike(experiment: Experiment) -> tuple[str, ...]:
    """In which fields beside the model's a run must not differ: what is held out must be what training scored."""
    held_out = ("data_source", "buckets", "compute_dtype", "training.validation", "training.validation_limit")
    return held_out if experiment.evaluation.split == HELD_OUT else ()


def _with_adapter(experiment: Experiment, folder: str) -> Experiment:
    return replace(experiment, evaluation=replace(experiment.evaluation, adapter=folder))


def _is_adapter(source: str) -> bool:
    return (Path(source) / peft_files.CONFIG).is_file()


def measure(scoring: Scoring, predictor: Predictor, weights: str) -> tuple[dict, np.ndarray]:
    """Runs all examples through one setting.

    Args:
      scoring: model and examples.
      predictor: of the setting; keeps its compiled programs, so that other weights need no other ones.
      weights: which of them.

    Returns:
      What was run and what it costs, as part of a row of results.json, and what was kept of each example.
    """
    started, run = time.perf_counter(), predictor.run
    outcomes = predictor(run.replicate(scoring.params[weights])) if run.here else None

    def whole() -> tuple[dict, np.ndarray]:
        assert outcomes is not None
        measured = {
            "seconds": time.perf_counter() - started,
            "real_tokens_median": float(np.median(scoring.task.lengths)),
            "share_in_every_part": scoring.share_in_every_part(predictor.setting.num_parts),
        }
        return measured | Costs.of(predictor).to_json(), outcomes

    return from_terminal(whole)


def complete(
    scoring: Scoring,
    setting: Setting,
    weights: str,
    measured: dict,
    outcomes: np.ndarray,
    reference: np.ndarray | None = None,
) -> dict:
    """A row of results.json: what was run, its score, and what was measured.

    Args:
      scoring: model and examples.
      setting: the exchange and the number of parts.
      weights: which of them.
      measured: from `measure`.
      outcomes: what was kept of each example.
      reference: the same on one device, for the paired difference.
    """
    task, num_tokens = scoring.task, scoring.experiment.num_tokens
    fields = SettingFields.of(setting, num_tokens, rows_by_bucket(task, scoring.buckets))
    row = fields.to_json() | {"weights": weights} | Score.of(task, outcomes, reference).to_json() | measured
    if isinstance(task, LanguageModelling):
        last_part = LastPart.of(task, outcomes, reference, setting, num_tokens)
        row |= last_part.to_json() if last_part else {}
    return row
