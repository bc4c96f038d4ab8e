"""Scores with their uncertainty.

`score` and `difference` return a metric's value with its 95 % interval; for `difference` it is paired on the same
examples. The accuracy has closed forms. All other metrics use the percentile bootstrap (Efron 1979): the examples are
drawn again with replacement, `RESAMPLES` times. `SEED` fixes the draws, so two models see the same ones. Draws in which
a metric is undefined are left out. For a perfect score the bootstrap gives the interval (100, 100), which says nothing
about unseen examples.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from prism_jax.errors import InputError
from prism_jax.metrics import formulas

Z95 = 1.959963984540054
"""97.5 % of a normal distribution lie below it."""
RESAMPLES = 1000
SEED = 0
BLOCK = 4_000_000
"""Largest number of values in memory while resampling."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """A figure computed from predictions and labels.

    Attributes:
      name: key in `METRICS`, with the unit.
      value: function from predictions and labels, both [examples, ...], to the figure; nan where it is undefined.
      resampled: function from predictions, labels, and how often each example was drawn, float [resamples, examples],
        to the figures [resamples].
      check: raises InputError if predictions or labels are of the wrong kind.
      higher_is_better: True if higher values are better, False if lower ones are.
    """

    name: str
    value: Callable[[np.ndarray, np.ndarray], float]
    resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    check: Callable[[str, np.ndarray, np.ndarray], None]
    higher_is_better: bool = True


def score(metric: Metric, predictions: np.ndarray, labels: np.ndarray) -> tuple[float, Interval]:
    """Returns a metric and its 95 % interval.

    Args:
      metric: a value of `METRICS`.
      predictions: [examples]. Classes for accuracy, F1 and Matthews; numbers for Pearson and Spearman; the
        log-likelihood of each window in nats for language models.
      labels: [examples] of the same kind. For language models int [windows, 2], the scored tokens and their bytes.

    Returns:
      The value and the interval. Both are nan if the value is undefined, for example a correlation with a constant.

    Raises:
      InputError: if there are no examples, the numbers of labels and predictions differ, or they are of the wrong kind.
    """
    labels, predictions = checked_arrays(metric, labels, predictions)
    if metric.name == "accuracy_percent":
        return accuracy(predictions == labels)
    value = metric.value(predictions, labels)
    return value, bootstrap(value, len(labels), lambda counts: metric.resampled(predictions, labels, counts))


def difference(
    metric: Metric, predictions: np.ndarray, reference: np.ndarray, labels: np.ndarray
) -> tuple[float, Interval]:
    """Returns a metric minus the reference's metric on the same examples, and the paired 95 % interval.

    Args:
      metric: a value of `METRICS`.
      predictions: as for `score`.
      reference: the other model's predictions.
      labels: as for `score`.
    """
    labels, predictions, reference = checked_arrays(metric, labels, predictions, reference)
    if metric.name == "accuracy_percent":
        return paired_difference(predictions == labels, reference == labels)
    value = metric.value(predictions, labels) - metric.value(reference, labels)

    def draw(counts):
        return metric.resampled(predictions, labels, counts) - metric.resampled(reference, labels, counts)

    return value, bootstrap(value, len(labels), draw)


def recovery(
    metric: Metric, tuned: np.ndarray, as_is: np.ndarray, control: np.ndarray, labels: np.ndarray
) -> tuple[float, Interval] | None:
    """Returns the share of an exchange's loss that fine-tuning regains, in percent: (tuned - as_is) / (control -
    as_is).

    Args:
      metric: a value of `METRICS`.
      tuned: predictions of the model fine-tuned with the exchange, run with the exchange.
      as_is: predictions of the model that was not fine-tuned for the exchange, run with the exchange.
      control: predictions of the model fine-tuned for as many steps without the exchange, run on one device.
      labels: as for `score`.

    Returns:
      The value and its paired 95 % bootstrap interval. None if the paired interval of (control - as_is) includes zero:
      the loss is then too small to measure, and so is its share.
    """
    labels, tuned, as_is, control = checked_arrays(metric, labels, tuned, as_is, control)
    _, (low, high) = difference(metric, control, as_is, labels)
    if not (low > 0 or high < 0):
        return None
    start = metric.value(as_is, labels)
    value = 100 * (metric.value(tuned, labels) - start) / (metric.value(control, labels) - start)

    def draw(counts):
        tuned_draws, control_draws, as_is_draws = (
            metric.resampled(predictions, labels, counts) for predictions in (tuned, control, as_is)
        )
        return formulas.ratio(100 * (tuned_draws - as_is_draws), control_draws - as_is_draws)

    return value, bootstrap(value, len(labels), draw)


def recovery_published(tuned: float, as_is: float, one_device: float) -> float | None:
    """Returns the recovery by the paper's definition, in percent: (tuned - as_is) / (one_device - as_is). None if
    nothing was lost.

    This definition has no control and no interval. For the paper's ViT, 97.43, 95.64 and 98.01 give 75.5 (arXiv
    2507.12145).
    """
    return None if one_device == as_is else 100 * (tuned - as_is) / (one_device - as_is)


def accuracy(correct: np.ndarray) -> tuple[float, Interval]:
    """Returns the accuracy in percent and its 95 % interval (Wilson 1927).

    Args:
      correct: bool [examples], whether each prediction is right.
    """
    hits, examples = int(correct.sum()), len(correct)
    from scipy.stats import binomtest  # a second to import

    interval = binomtest(hits, examples).proportion_ci(0.95, method="wilson")
    return 100 * hits / examples, (100 * interval.low, 100 * interval.high)


def paired_difference(correct: np.ndarray, reference: np.ndarray) -> tuple[float, Interval]:
    """Returns the accuracy minus the reference's on the same examples, in points, and its 95 % interval.

    This is the adjusted Wald interval for matched pairs (Agresti and Min 2005), with half an example added to each cell
    of the 2 x 2 table. It keeps a positive width if two models agree on every example of a subset.
    """
    examples = len(correct)
    won, lost = int((correct & ~reference).sum()), int((~correct & reference).sum())
    n, b, c = examples + 2, won + 0.5, lost + 0.5
    middle, spread = (b - c) / n, Z95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return 100 * (won - lost) / examples, (100 * (middle - spread), 100 * (middle + spread))


def resamples(examples: int) -> Iterator[np.ndarray]:
    """Yields how often each example is drawn, float [some resamples, examples], `RESAMPLES` in all. Repeated calls give
    the same draws."""
    rng, left = np.random.default_rng(SEED), RESAMPLES
    while left:
        rows = min(left, max(1, BLOCK // examples))
        drawn = (rng.integers(examples, size=examples) for _ in range(rows))
        yield np.stack([np.bincount(draw, minlength=examples) for draw in drawn]).astype(np.float64)
        left -= rows


def bootstrap(value: float, examples: int, draw: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """Returns the middle 95 % of a figure over the resamples in which it is defined; nan if `value` is undefined.

    Args:
      value: the figure on the examples themselves.
      examples: number of examples.
      draw: function from how often each example was drawn [resamples, examples] to the figures [resamples].
    """
    if not math.isfinite(value):
        return math.nan, math.nan
    draws = np.concatenate([draw(counts) for counts in resamples(examples)])
    low, high = np.percentile(draws[np.isfinite(draws)], [2.5, 97.5]) if np.isfinite(draws).any() else [math.nan] * 2
    return float(low), float(high)


def checked_arrays(metric: Metric, labels: np.ndarray, *predictions: np.ndarray) -> list[np.ndarray]:
    """Returns labels and predictions as arrays, after checking that they fit a metric."""
    labels = np.asarray(labels)
    if not len(labels):
        raise InputError(f"no examples to compute {metric.name} of; give at least one")
    arrays = [np.asarray(values) for values in predictions]
    for array in arrays:
        if array.shape != labels.shape[:1]:
            raise InputError(f"{metric.name} has predictions {array.shape}, but labels {labels.shape}; give one each")
        metric.check(metric.name, array, labels)
    return [labels, *arrays]


def check_classes(name: str, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Raises InputError unless predictions and labels are classes."""
    if labels.ndim != 1 or not {predictions.dtype.kind, labels.dtype.kind} <= set("iub"):
        raise InputError(
            f"{name} takes classes, int [examples], not {predictions.dtype} and labels {labels.dtype}; "
            "give those, or choose another metric"
        )


def check_two_classes(name: str, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Raises InputError unless predictions and labels are 0 or 1."""
    check_classes(name, predictions, labels)
    if not np.isin(predictions, (0, 1)).all() or not np.isin(labels, (0, 1)).all():
        raise InputError(
            f"{name} takes the classes 0 and 1, not {np.union1d(predictions, labels).tolist()[:9]}; "
            "give those, or choose another metric"
        )


def check_numbers(name: str, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Raises InputError unless predictions are floating point numbers, one for each example."""
    if labels.ndim != 1 or predictions.dtype.kind != "f":
        raise InputError(
            f"{name} takes numbers, float [examples], not {predictions.dtype} and labels {labels.dtype}; "
            "give those, or choose another metric"
        )


def check_windows(name: str, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Raises InputError unless predictions are log-likelihoods, and labels are numbers of tokens and bytes."""
    if predictions.dtype.kind != "f" or labels.shape[1:] != (2,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{name} takes log-likelihoods, float [windows], and int [windows, 2] of tokens and bytes, "
            f"not {predictions.dtype} and {labels.dtype} {labels.shape}; give those, or choose another metric"
        )
    if (labels < 0).any() or not (labels.sum(0) > 0).all():
        raise InputError(
            f"{name} takes windows with at least one token and one byte, not {labels.sum(0).tolist()}; "
            "give longer texts"
        )


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
"""Metrics by name. Windows of language models are resampled as if they were independent of each other."""
