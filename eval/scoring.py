"""Scores one setting (an exchange on a number of parts) on real data, with its cost."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from eval.rows import cost_row, last_part_row, score_row, setting_row
from prism_jax import adapter_files, checkpoint, lora
from prism_jax.config import Experiment
from prism_jax.dataset import Dataset, subset
from prism_jax.exchange import per_block
from prism_jax.experiment import HELD_OUT, load_data, load_model, load_run
from prism_jax.language_tasks import LanguageModelling
from prism_jax.prediction import Predictor, Setting
from prism_jax.runners import Runner
from prism_jax.task import Task
from prism_jax.tasks import prepare
from prism_jax.text import bucket_lengths, bucket_of
from prism_jax.weights import Pretrained

BASE, TUNED, CONTROL = "base", "tuned", "control"
"""Weights to score: those to begin with; tuned from these through an exchange; tuned from these as long without one."""


@dataclass(frozen=True)
class Scoring:
    """What an experiment scores: a model, its weights of one kind or several, and the examples.

    Attributes:
      experiment: its config.
      model: the Linen module.
      params: by kind of weights, without adapters.
      sources: where each kind comes from.
      dataset_name: of the examples.
      task: the examples.
    """

    experiment: Experiment
    model: nn.Module
    params: dict[str, Any]
    sources: dict[str, str]
    dataset_name: str
    task: Task

    @property
    def buckets(self) -> tuple[int, ...]:
        return bucket_lengths(self.experiment.buckets, self.experiment.num_tokens)

    def share_in_every_part(self, num_parts: int) -> float:
        """Share of the rows with a real token in every part; padding stands on the right."""
        lengths = self.task.lengths
        part_len = -(-bucket_of(lengths, self.buckets) // num_parts)
        return float(np.mean(lengths > (num_parts - 1) * part_len))


def load_scoring(experiment: Experiment, settings: list[Setting], sources: dict[str, str | None]) -> Scoring:
    """The model, its weights, and the examples of an experiment.

    Args:
      experiment: what to score.
      settings: all that will be scored; refused if one does not fit the model.
      sources: by kind of weights, a run of train.finetune (its best checkpoint, or `RUN@STEP`) or a folder with an adapter in
        PEFT's layout; None for the experiment's own weights.
    """
    dataset = load_data(experiment, experiment.split)
    variants = {kind: load_variant(experiment, dataset, source) for kind, source in sources.items()}
    pretrained = variants[BASE]
    for setting in settings:
        per_block(setting.exchange, pretrained.model.config.stack.num_layers)
    limit = 0 if experiment.split == HELD_OUT else experiment.limit  # held out is what training scored
    task = prepare(subset(dataset, limit), pretrained, experiment.num_tokens)
    named = {kind: source or experiment.adapter or experiment.weights for kind, source in sources.items()}
    params = {kind: one.params for kind, one in variants.items()}
    return Scoring(experiment, pretrained.model, params, named, dataset.name, task)


def load_variant(experiment: Experiment, dataset: Dataset, source: str | None) -> Pretrained:
    """The model of an experiment, as a run left it or with an adapter in PEFT's layout; adapters folded in.

    Raises:
      InputError: if the source is neither, or of another model.
    """
    if source is None:
        return load_model(experiment, dataset)
    if (Path(source) / adapter_files.CONFIG).is_file():
        return load_model(replace(experiment, adapter=source), dataset)
    trained = checkpoint.named(source)
    checkpoint.check_same_model(
        trained.run, experiment, *(("training.validation",) if experiment.split == HELD_OUT else ())
    )
    pretrained = load_run(trained, experiment.compute_dtype)
    return replace(pretrained, params=lora.merge(pretrained.params))


def score(
    scoring: Scoring, setting: Setting, run: Runner, weights: str = BASE, reference: np.ndarray | None = None
) -> tuple[dict, np.ndarray]:
    """Scores one setting.

    Args:
      scoring: model and examples.
      setting: the exchange and the number of parts.
      run: where the parts run.
      weights: which of them.
      reference: what was kept of each row on one device, for the paired difference.

    Returns:
      A row of results.json, and what was kept of each row.
    """
    experiment, started = scoring.experiment, time.perf_counter()
    predictor = Predictor(scoring.model, scoring.task, setting, run, experiment.batch_size, scoring.buckets)
    outcomes = predictor(run.replicate(scoring.params[weights]))
    row = setting_row(setting, experiment.num_tokens, predictor.rows_by_bucket()) | {"weights": weights}
    row |= score_row(scoring.task, outcomes, reference)
    row |= {
        "real_tokens_median": float(np.median(scoring.task.lengths)),
        "share_in_every_part": scoring.share_in_every_part(setting.num_parts),
    }
    if isinstance(scoring.task, LanguageModelling):
        row |= last_part_row(scoring.task, outcomes, reference, setting, experiment.num_tokens)
    row |= cost_row(scoring.model, setting, predictor)
    return row | {"seconds": time.perf_counter() - started}, outcomes
