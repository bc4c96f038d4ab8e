"""Fields of a record of results.json: the setting, the score, the last part, recovery. `cost_rows` has the costs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from eval.scoring.variants import Planned
from prism_jax.errors import InputError, RunError, one_line
from prism_jax.exchange.base import Exchange, as_tuple
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.exchange.wire import FLOAT32
from prism_jax.exchange.wrapped import wire_of, with_wire
from prism_jax.metrics import scores
from prism_jax.parallel.partition import part_length
from prism_jax.tasks.base import Task
from prism_jax.tasks.language import LanguageModelling

Interval = tuple[float, float]
"""Lower and upper bound of a 95 % interval."""


class Fields:
    """Base class of dataclasses whose fields are keys of a record, in the same order."""

    def to_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


def over_buckets(figure_of: Mapping[int, float], examples_of: Mapping[int, int]) -> float:
    """Returns the mean over examples of a figure that depends on the padded length.

    Args:
      figure_of: the figure by padded length.
      examples_of: number of examples by padded length.
    """
    total = sum(count * figure_of[length] for length, count in examples_of.items())
    return total / sum(examples_of.values())


@dataclass(frozen=True)
class SettingFields(Fields):
    """Names and numbers of a setting.

    Attributes:
      setting: the exchange as on the command line.
      exchange: its name, and its parameters if it has others than L. L stands there as a letter, and a wire format does
        not. So exchanges that differ in L and wire alone have the same name.
      wire: its wire format; separated by commas if each block has its own exchange.
      num_parts: P.
      num_segments: L; None for an exchange without segments.
      compression_rate: tokens of a part over rows that it sends, as the mean over examples; None if nothing is sent.
      tokens: N.
    """

    setting: str
    exchange: str
    wire: str
    num_parts: int
    num_segments: int | None
    compression_rate: float | None
    tokens: int

    @classmethod
    def of(cls, setting: Setting, num_tokens: int, examples_of: Mapping[int, int]) -> Self:
        """
        Args:
          setting: the exchange and the number of parts.
          num_tokens: N.
          examples_of: number of examples, by the length to which they are padded.
        """
        exchange, num_parts = setting.exchange, setting.num_parts
        if not isinstance(exchange, Exchange):
            wires = ",".join(wire_of(in_block).name for in_block in as_tuple(exchange))
            return cls(text_of(exchange), text_of(exchange), wires, num_parts, None, None, num_tokens)
        name, *values = str(with_wire(exchange, FLOAT32)).split(":")
        parameters = list(exchange.parameters())
        if "num_segments" in parameters:
            values[parameters.index("num_segments")] = "L"
        rates = {}
        for length in examples_of if num_parts > 1 else ():
            part_len = part_length(length, num_parts)
            if rows_sent := exchange.rows_sent(part_len) + exchange.first_rows:
                rates[length] = part_len / rows_sent
        return cls(
            setting=text_of(exchange),
            exchange=":".join([name, *values] if values != ["L"] else [name]),
            wire=wire_of(exchange).name,
            num_parts=num_parts,
            num_segments=getattr(exchange, "num_segments", None),
            compression_rate=over_buckets(rates, examples_of) if rates.keys() == examples_of.keys() else None,
            tokens=num_tokens,
        )


@dataclass(frozen=True)
class Score(Fields):
    """The score of a setting. Unknown values are None.

    Attributes:
      metric: the task's first metric.
      score: its value.
      score_ci95: the interval of the score.
      difference_to_one_device: paired difference on the same examples; None for one device itself.
      difference_ci95: the interval of the difference.
      other_metrics: the task's further metrics, by name.
      examples: number of scored examples.
    """

    metric: str
    score: float | None = None
    score_ci95: Interval | None = None
    difference_to_one_device: float | None = None
    difference_ci95: Interval | None = None
    other_metrics: dict[str, float] | None = None
    examples: int | None = None

    @classmethod
    def of(cls, task: Task, outcomes: np.ndarray, reference: np.ndarray | None) -> Self:
        """
        Args:
          task: the examples.
          outcomes: outcomes of all sequences, from `Predictor`.
          reference: the same outcomes on one device; None if the setting is one device.
        """
        predictions = task.predictions(outcomes)
        metric, *others = (scores.METRICS[name] for name in task.metrics)
        if task.labels is None:
            return cls(metric.name, other_metrics={}, examples=len(predictions))
        value, interval = scores.score(metric, predictions, task.labels)
        difference, difference_interval = None, None
        if reference is not None:
            exact = task.predictions(reference)
            difference, difference_interval = scores.difference(metric, predictions, exact, task.labels)
        return cls(
            metric=metric.name,
            score=value,
            score_ci95=interval,
            difference_to_one_device=difference,
            difference_ci95=difference_interval,
            other_metrics={other.name: scores.score(other, predictions, task.labels)[0] for other in others},
            examples=len(predictions),
        )


def predicted_in_last_part(num_tokens: int, num_parts: int) -> range:
    """Returns the indices of `likelihood.log_likelihoods` that are predicted by rows of the last part, in a window of N
    tokens."""
    return range((num_parts - 1) * part_length(num_tokens, num_parts), num_tokens - 1)


@dataclass(frozen=True)
class LastPartScore(Fields):
    """Perplexity of the tokens of the last part, in windows of all N tokens, and its difference from one device.

    As generated tokens do, these tokens see their own part directly and earlier parts through the exchange. So the
    difference is the cost of the exchange in generation.
    """

    last_part_perplexity: float
    last_part_perplexity_ci95: Interval | None
    last_part_difference_to_one_device: float | None
    last_part_difference_ci95: Interval | None
    last_part_windows: int

    @classmethod
    def of(
        cls,
        task: LanguageModelling,
        outcomes: np.ndarray,
        reference: np.ndarray | None,
        setting: Setting,
        num_tokens: int,
    ) -> Self | None:
        """Returns None if no window has N tokens, or the last part holds only padding. See `Score.of`."""
        predicted = predicted_in_last_part(num_tokens, setting.num_parts)
        whole = task.lengths == num_tokens
        if not whole.any() or not predicted:
            return None
        labels = np.full((whole.sum(), 2), len(predicted))
        metric, of_windows = scores.METRICS["perplexity"], outcomes[whole][:, predicted].sum(1)
        value, interval = scores.score(metric, of_windows, labels)
        difference, difference_interval = None, None
        if reference is not None:
            exact = reference[whole][:, predicted].sum(1)
            difference, difference_interval = scores.difference(metric, of_windows, exact, labels)
        return cls(value, interval, difference, difference_interval, int(whole.sum()))


@dataclass(frozen=True)
class Recovery(Fields):
    """Share of an exchange's loss that fine-tuning through it regains, in percent.

    Attributes:
      recovery_percent: (tuned - base) / (control - base); None if the denominator is too small to measure.
      recovery_ci95: the interval of recovery_percent.
      recovery_percent_as_published: recovery by the paper's definition.
    """

    recovery_percent: float | None
    recovery_ci95: Interval | None
    recovery_percent_as_published: float | None

    @classmethod
    def of(
        cls,
        task: Task,
        tuned: np.ndarray,
        as_is: np.ndarray | None,
        control: np.ndarray | None,
        one_device: np.ndarray | None,
    ) -> Self | None:
        """Returns None if one of the outcomes to compare with is missing.

        Args:
          task: the examples.
          tuned: outcomes of the tuned weights through the exchange.
          as_is: outcomes of base through the exchange.
          control: outcomes of the control on one device.
          one_device: outcomes of base on one device.
        """
        if as_is is None or control is None or one_device is None:
            return None
        assert task.labels is not None
        metric = scores.METRICS[task.metrics[0]]
        tuned, as_is, control, one_device = map(task.predictions, (tuned, as_is, control, one_device))
        value, interval = scores.recovery(metric, tuned, as_is, control, task.labels) or (None, None)
        published = scores.recovery_published(*(metric.value(x, task.labels) for x in (tuned, as_is, one_device)))
        return cls(value, interval, published)


def planned_row(planned: Planned) -> dict[str, Any]:
    """Returns the identity fields of a planned record."""
    setting = SettingFields.of(planned.setting, planned.num_tokens, {planned.num_tokens: 1})
    return setting.to_json() | {"weights": planned.weights}


def failed_row(task: Task, planned: Planned, error: Exception) -> dict[str, Any]:
    """Returns the record of a setting that failed, with the error."""
    kind = "" if isinstance(error, InputError | RunError) else f"{type(error).__name__}: "
    return planned_row(planned) | Score(task.metrics[0]).to_json() | {"error": kind + one_line(error, 500)}
