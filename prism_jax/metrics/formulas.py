"""Formulas of the metrics: the value, and the values on many resamples at once. Unless a name says otherwise, in
percent.

Values come from scikit-learn, SciPy and `summary`. Resamples have separate formulas, for speed: a thousand F1 scores of
40,000 examples took 12 s in scikit-learn, and 0.7 s with the formula here. `counts` is how often each example was
drawn, float [resamples, examples].
"""

import math

import numpy as np


def summary(log_likelihood: float, num_tokens: int, num_bytes: int) -> dict[str, float]:
    """Returns the loss in nats per token, the perplexity per token, and the bits per byte of the text (UTF-8).

    Args:
      log_likelihood: of all scored tokens together, in nats.
      num_tokens: number of scored tokens.
      num_bytes: number of bytes of their text.
    """
    loss = -log_likelihood / num_tokens
    return {"loss": loss, "perplexity": float(np.exp(loss)), "bits_per_byte": -log_likelihood / np.log(2) / num_bytes}


def ratio(above: np.ndarray, below: np.ndarray, undefined: float = math.nan) -> np.ndarray:
    """Returns above / below, or `undefined` where `below` is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), float(undefined)), where=below != 0)


def accuracy_value(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of examples with the right class."""
    return 100 * int((predictions == labels).sum()) / len(labels)


def accuracy_resampled(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the share of draws with the right class."""
    return 100 * counts @ (predictions == labels) / counts.sum(1)


def f1_value(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Returns the F1 score of class 1; 0 if neither predictions nor labels contain it, as in GLUE."""
    from sklearn.metrics import f1_score

    return 100 * float(f1_score(labels, predictions, zero_division=0))


def f1_resampled(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns twice the number of examples that both call 1, over the number of ones in predictions and labels."""
    in_both, ones = (predictions == 1) & (labels == 1), predictions.astype(float) + labels
    return 100 * ratio(2 * counts @ in_both, counts @ ones, 0)


def matthews_value(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Returns Matthews' correlation; 0 if all predictions or all labels are of one class, as in scikit-learn."""
    from sklearn.metrics import matthews_corrcoef

    return 100 * float(matthews_corrcoef(labels, predictions))


def matthews_resampled(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns Matthews' correlation for any number of classes (Gorodkin 2004): the correlation of the one-hot
    tables."""
    names = np.union1d(predictions, labels)
    predicted, true = (predictions[:, None] == names[None]), (labels[:, None] == names[None])
    shares = counts / counts.sum(1, keepdims=True)
    share_predicted, share_true, agreed = shares @ predicted, shares @ true, shares @ (predictions == labels)
    spread = (1 - (share_predicted**2).sum(1)) * (1 - (share_true**2).sum(1))
    spread = np.where(spread > 1e-12, spread, 0)  # with only one class, this is 0 up to rounding
    return 100 * ratio(agreed - (share_predicted * share_true).sum(1), np.sqrt(spread), 0)


def correlation(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlation in percent [resamples], for x and y [examples] or [resamples, examples]; nan for a
    constant."""
    weights = counts / counts.sum(1, keepdims=True)
    x, y = (np.broadcast_to(values, weights.shape) for values in (x, y))
    size = (weights * x**2).sum(1) * (weights * y**2).sum(1)
    x, y = (values - (weights * values).sum(1, keepdims=True) for values in (x, y))
    spread = (weights * x**2).sum(1) * (weights * y**2).sum(1)
    spread = np.where(spread > 1e-24 * size, spread, 0)  # for a constant, this is 0 up to rounding
    return 100 * ratio((weights * x * y).sum(1), np.sqrt(spread))


def constant(*arrays: np.ndarray) -> bool:
    """Returns whether a correlation with one of the arrays is undefined."""
    return any(len(array) < 2 or not np.isfinite(array).all() or np.ptp(array) == 0 for array in arrays)


def pearson_value(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Returns the linear correlation."""
    from scipy.stats import pearsonr  # a second to import

    if constant(predictions, labels):
        return math.nan
    predictions, labels = predictions.astype(float), labels.astype(float)  # SciPy sums in the type of its arguments
    return 100 * float(pearsonr(predictions, labels).statistic)


def pearson_resampled(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the linear correlation of the draws."""
    return correlation(predictions.astype(float), labels.astype(float), counts)


def spearman_value(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Returns the correlation of the ranks."""
    from scipy.stats import spearmanr

    return math.nan if constant(predictions, labels) else 100 * float(spearmanr(predictions, labels).statistic)


def spearman_resampled(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the correlation of the ranks among the draws."""
    return correlation(ranks(predictions, counts), ranks(labels, counts), counts)


def ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the rank of each example in each resample [resamples, examples]. Equal values share their mean rank."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first, last = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    up_to = np.pad(np.cumsum(counts[:, order], axis=1), [(0, 0), (1, 0)])
    return (up_to[:, first] + up_to[:, last] + 1) / 2


def language_value(key: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    """Returns the figure `key` of `summary` for all windows together."""
    tokens, num_bytes = labels.sum(0)
    return float(summary(float(predictions.sum(dtype=np.float64)), int(tokens), int(num_bytes))[key])


def loss_resampled(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the loss in nats per token; nan if no drawn window has a token."""
    return -ratio(counts @ predictions.astype(float), counts @ labels[:, 0])


def perplexity_resampled(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the perplexity per token."""
    return np.exp(loss_resampled(predictions, labels, counts))


def bits_per_byte_resampled(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the bits per byte of the text."""
    return -ratio(counts @ predictions.astype(float), counts @ labels[:, 1]) / math.log(2)
