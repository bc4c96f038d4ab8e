"""Scores one setting (an exchange on a number of parts) on real data, with its cost."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.scoring.cost_rows import Costs
from eval.scoring.load import Scoring
from eval.scoring.rows import LastPartScore, Recovery, Score, SettingFields
from eval.scoring.variants import TUNED
from prism_jax.exchange.setting import Setting
from prism_jax.parallel.processes import from_terminal
from prism_jax.tasks.language import LanguageModelling
from prism_jax.tasks.predict import Predictor, count_by_bucket


@dataclass(frozen=True)
class Measured:
    """Result of running all examples in one setting.

    Attributes:
      fields: seconds, lengths and costs, as fields of a record of results.json.
      outcomes: outcomes of all sequences of the task.
    """

    fields: dict[str, Any]
    outcomes: np.ndarray


@dataclass(frozen=True)
class References:
    """Outcomes to compare with; None if they are missing.

    Attributes:
      one_device: outcomes on one device, with the weights to compare with; None if the setting is one device itself.
      as_is: outcomes of base in the same setting, for recovery.
      control: outcomes of the control on one device, for recovery.
    """

    one_device: np.ndarray | None = None
    as_is: np.ndarray | None = None
    control: np.ndarray | None = None


def measure(scoring: Scoring, predictor: Predictor, weights: str) -> Measured:
    """Runs all examples in one setting. Called on every process; all get the result.

    Args:
      scoring: model and examples.
      predictor: predictor of the setting. It keeps its compiled programs for other kinds of weights.
      weights: kind of weights.
    """
    started, run = time.perf_counter(), predictor.run
    outcomes = predictor(run.replicate(scoring.variants[weights].params)) if run.here else None

    def finished() -> Measured:
        assert outcomes is not None
        fields = {
            "seconds": time.perf_counter() - started,
            "real_tokens_median": float(np.median(scoring.task.lengths)),
            "share_in_every_part": scoring.share_in_every_part(predictor.setting.num_parts),
        }
        return Measured(fields | Costs.of(predictor).to_json(), outcomes)

    return from_terminal(finished)


def record(
    scoring: Scoring, setting: Setting, weights: str, measured: Measured, references: References = References()
) -> dict[str, Any]:
    """Returns a record of results.json: the setting, its score, the measured fields, and the comparisons.

    Args:
      scoring: model and examples.
      setting: the exchange and the number of parts.
      weights: kind of weights.
      measured: from `measure`.
      references: outcomes to compare with.
    """
    task, num_tokens, outcomes = scoring.task, scoring.experiment.num_tokens, measured.outcomes
    fields = SettingFields.of(setting, num_tokens, count_by_bucket(task, scoring.buckets)).to_json()
    fields |= {"weights": weights} | Score.of(task, outcomes, references.one_device).to_json() | measured.fields
    if isinstance(task, LanguageModelling):
        last_part = LastPartScore.of(task, outcomes, references.one_device, setting, num_tokens)
        fields |= last_part.to_json() if last_part else {}
    if weights == TUNED:
        recovery = Recovery.of(task, outcomes, references.as_is, references.control, references.one_device)
        fields |= recovery.to_json() if recovery else {}
    return fields
