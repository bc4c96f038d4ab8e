"""Scores with their uncertainty.

`score` and `difference` give a metric's value with its 95 % interval, the latter paired on the same examples. Accuracy
has closed forms. The others draw the examples again, with replacement (percentile bootstrap, Efron 1979), always the
same `RESAMPLES` times by `SEED`; two models see the same draws. Draws in which a metric is undefined are left out. The
bootstrap
calls a perfect score certain: (100, 100) then says nothing about examples that were not seen.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from prism_jax.errors import InputError
from prism_jax.metrics import formulas as formulas

Z95 = stats.norm.ppf(0.975)
RESAMPLES = 1000
SEED = 0
BLOCK = 4_000_000
"""Numbers held at once while resampling."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """A figure made of predictions and labels.

    Attributes:
      name: its key in `METRICS`, with the unit.
      value: from predictions and labels, both [examples, ...], to the figure; nan where it is undefined.
      resampled: from predictions, labels, and how often each example was drawn, float [resamples, examples], to the
        figures [resamples].
      check: raises InputError if predictions or labels are of the wrong kind.
      higher_is_better: or lower.
    """

    name: str
    value: Callable[[np.ndarray, np.ndarray], float]
    resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    check: Callable[[str, np.ndarray, np.ndarray], None]
    higher_is_better: bool = True


def score(metric: Metric, predictions: np.ndarray, labels: np.ndarray) -> tuple[float, Interval]:
    """A metric and its 95 % interval.

    Args:
      metric: a value of `METRICS`.
      predictions: [examples]: classes for accuracy, F1 and Matthews; numbers for Pearson and Spearman; for figures of
        language models the log-likelihood of each window, in nats.
      labels: [examples] of the same kind; for figures of language models int [windows, 2], scored tokens and their
        bytes.

    Returns:
      The value, and the interval; both nan where the value is undefined, as a correlation with a constant is.

    Raises:
      InputError: if there are no examples, or not as many labels, or of the wrong kind.
    """
    labels, predictions = checked(metric, labels, predictions)
    if metric.name == "accuracy_percent":
        return accuracy(predictions == labels)
    value = metric.value(predictions, labels)
    return value, bootstrap(value, len(labels), lambda counts: metric.resampled(predictions, labels, counts))


def difference(
    metric: Metric, predictions: np.ndarray, reference: np.ndarray, labels: np.ndarray
) -> tuple[float, Interval]:
    """A metric minus the reference's on the same examples, and its paired 95 % interval.

    Args:
      metric: a value of `METRICS`.
      predictions: as `score` has them.
      reference: the other model's predictions.
      labels: as `score` has them.
    """
    labels, predictions, reference = checked(metric, labels, predictions, reference)
    if metric.name == "accuracy_percent":
        return paired_difference(predictions == labels, reference == labels)
    value = metric.value(predictions, labels) - metric.value(reference, labels)

    def draw(counts):
        return metric.resampled(predictions, labels, counts) - metric.resampled(reference, labels, counts)

    return value, bootstrap(value, len(labels), draw)


def recovery(
    metric: Metric, tuned: np.ndarray, as_is: np.ndarray, control: np.ndarray, labels: np.ndarray
) -> tuple[float, Interval] | None:
    """How much of what an exchange loses fine-tuning wins back, in percent: (tuned - as_is) / (control - as_is).

    Args:
      metric: a value of `METRICS`.
      tuned: predictions of the model fine-tuned with the exchange.
      as_is: of the model with the exchange, not fine-tuned for it.
      control: of the model fine-tuned as long without it, on one device.
      labels: as `score` has them.

    Returns:
      The value and its paired 95 % bootstrap interval; None unless the paired interval of control - as_is excludes
      zero:
      of a loss that was not seen no share can be told.
    """
    labels, tuned, as_is, control = checked(metric, labels, tuned, as_is, control)
    _, (low, high) = difference(metric, control, as_is, labels)
    if not (low > 0 or high < 0):
        return None
    start = metric.value(as_is, labels)
    value = 100 * (metric.value(tuned, labels) - start) / (metric.value(control, labels) - start)

    def draw(counts):
        won, best, least = (metric.resampled(which, labels, counts) for which in (tuned, control, as_is))
        return formulas.ratio(100 * (won - least), best - least)

    return value, bootstrap(value, len(labels), draw)


def recovery_published(tuned: float, as_is: float, one_device: float) -> float | None:
    """The paper's own recovery, in percent: (tuned - as_is) / (one_device - as_is); None where nothing was lost.

    It has no control and no interval. Its ViT: 97.43, 95.64, 98.01 give 75.5 (arXiv 2507.12145).
    """
    return None if one_device == as_is else 100 * (tuned - as_is) / (one_device - as_is)


def accuracy(correct: np.ndarray) -> tuple[float, Interval]:
    """Accuracy in percent and its 95 % interval (Wilson 1927).

    Args:
      correct: bool [examples].
    """
    hits, examples = int(correct.sum()), len(correct)
    interval = stats.binomtest(hits, examples).proportion_ci(0.95, method="wilson")
    return 100 * hits / examples, (100 * interval.low, 100 * interval.high)


def paired_difference(correct: np.ndarray, reference: np.ndarray) -> tuple[float, Interval]:
    """Accuracy minus the reference's on the same examples, in points, and its 95 % interval.

    The interval is the adjusted Wald interval for matched pairs (Agresti and Min 2005: half an example added to each
    cell of the 2 x 2 table), which does not shrink to nothing where two models agree on every example of a subset.
    """
    examples = len(correct)
    won, lost = int((correct & ~reference).sum()), int((~correct & reference).sum())
    n, b, c = examples + 2, won + 0.5, lost + 0.5
    middle, spread = (b - c) / n, Z95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return 100 * (won - lost) / examples, (100 * (middle - spread), 100 * (middle + spread))


def resamples(examples: int) -> Iterator[np.ndarray]:
    """How often each example is drawn, float [some resamples, examples] at a time, `RESAMPLES` in all;
    always the same."""
    rng, left = np.random.default_rng(SEED), RESAMPLES
    while left:
        rows = min(left, max(1, BLOCK // examples))
        drawn = (rng.integers(examples, size=examples) for _ in range(rows))
        yield np.stack([np.bincount(draw, minlength=examples) for draw in drawn]).astype(np.float64)
        left -= rows


def bootstrap(value: float, examples: int, draw: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """The middle 95 % of a figure over the resamples in which it is defined; nan where its value is not.

    Args:
      value: the figure on the examples themselves.
      examples: how many.
      draw: from how often each was drawn [resamples, examples] to the figures [resamples].
    """
    if not math.isfinite(value):
        return math.nan, math.nan
    draws = np.concatenate([draw(counts) for counts in resamples(examples)])
    low, high = np.percentile(draws[np.isfinite(draws)], [2.5, 97.5]) if np.isfinite(draws).any() else [math.nan] * 2
    return float(low), float(high)


def checked(metric: Metric, labels: np.ndarray, *predictions: np.ndarray) -> list[np.ndarray]:
    """Labels and predictions as arrays of the kind that a metric takes."""
    labels = np.asarray(labels)
    if not len(labels):
        raise InputError(f"no examples to compute {metric.name} of; give at least one")
    arrays = [np.asarray(each) for each in predictions]
    for array in arrays:
        if array.shape != labels.shape[:1]:
            raise InputError(f"{metric.name} has predictions {array.shape}, but labels {labels.shape}; give one each")
        metric.check(metric.name, array, labels)
    return [labels, *arrays]


def check_classes(name: str, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Both are classes."""
    if labels.ndim != 1 or not {predictions.dtype.kind, labels.dtype.kind} <= set("iub"):
        raise InputError(f"{name} takes classes, int [examples], not {predictions.dtype} and labels {labels.dtype}")


def check_two_classes(name: str, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Both are 0 or 1."""
    check_classes(name, predictions, labels)
    if not np.isin(predictions, (0, 1)).all() or not np.isin(labels, (0, 1)).all():
        raise InputError(f"{name} takes the classes 0 and 1, not {np.union1d(predictions, labels).tolist()[:9]}")


def check_numbers(name: str, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Both are numbers, not classes by chance."""
    if labels.ndim != 1 or predictions.dtype.kind != "f":
        raise InputError(f"{name} takes numbers, float [examples], not {predictions.dtype} and labels {labels.dtype}")


def check_windows(name: str, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Log-likelihoods, with tokens and bytes."""
    if predictions.dtype.kind != "f" or labels.shape[1:] != (2,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{name} takes log-likelihoods, float [windows], and int [windows, 2] of tokens and bytes, "
            f"not {predictions.dtype} and {labels.dtype} {labels.shape}"
        )
    if (labels < 0).any() or not (labels.sum(0) > 0).all():
        raise InputError(f"{name} takes windows with at least one token and one byte, not {labels.sum(0).tolist()}")


def _language(name: str, key: str, resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Metric:
    return Metric(
        name, functools.partial(formulas.language_value, key), resampled, check_windows, higher_is_better=False
    )


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy_percent", formulas.accuracy_value, formulas.accuracy_resampled, check_classes),
        Metric("f1_percent", formulas.f1_value, formulas.f1_resampled, check_two_classes),
        Metric("matthews_percent", formulas.matthews_value, formulas.matthews_resampled, check_classes),
        Metric("pearson_percent", formulas.pearson_value, formulas.pearson_resampled, check_numbers),
        Metric("spearman_percent", formulas.spearman_value, formulas.spearman_resampled, check_numbers),
        _language("bits_per_byte", "bits_per_byte", formulas.bits_per_byte_resampled),
        _language("perplexity", "perplexity", formulas.perplexity_resampled),
        _language("loss_nats", "loss", formulas.loss_resampled),
    )
}
"""By name. Windows of language models are drawn as if they were independent of each other."""
