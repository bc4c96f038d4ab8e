"""The metrics in percent, or of language models: each as a value, and of many resamples at once.

The values are by scikit-learn, SciPy and `summary`. The resamples have formulas of their own: a thousand F1 of 40,000
examples took scikit-learn 12 s, the formula here 0.7 s. `counts` is how often each example was drawn, float [resamples,
examples].
"""

import math

import numpy as np
from scipy import stats


def summary(log_likelihood: float, num_tokens: int, num_bytes: int) -> dict[str, float]:
    """Loss in nats per token, perplexity per token, and bits per byte of the text (UTF-8).

    Args:
      log_likelihood: of all scored tokens together, in nats.
      num_tokens: how many were scored.
      num_bytes: of the text that they stand for.
    """
    loss = -log_likelihood / num_tokens
    return {"loss": loss, "perplexity": float(np.exp(loss)), "bits_per_byte": -log_likelihood / np.log(2) / num_bytes}


def ratio(above: np.ndarray, below: np.ndarray, undefined: float = math.nan) -> np.ndarray:
    """above / below, and `undefined` where that is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), float(undefined)), where=below != 0)


def accuracy_value(predictions, labels):
    """Share whose class is right."""
    return 100 * int((predictions == labels).sum()) / len(labels)


def accuracy_resampled(predictions, labels, counts):
    """Share of the draws whose class is right."""
    return 100 * counts @ (predictions == labels) / counts.sum(1)


def f1_value(predictions, labels):
    """Of class 1; 0 where there is none, as GLUE has it."""
    from sklearn.metrics import f1_score

    return 100 * float(f1_score(labels, predictions, zero_division=0))


def f1_resampled(predictions, labels, counts):
    """Twice those both call 1, over all that either does."""
    both, either = (predictions == 1) & (labels == 1), predictions.astype(float) + labels
    return 100 * ratio(2 * counts @ both, counts @ either, 0)


def matthews_value(predictions, labels):
    """0 where predictions or labels are all of one class, as scikit-learn has it."""
    from sklearn.metrics import matthews_corrcoef

    return 100 * float(matthews_corrcoef(labels, predictions))


def matthews_resampled(predictions, labels, counts):
    """Of any number of classes (Gorodkin 2004): the correlation of the one-hot tables."""
    names = np.union1d(predictions, labels)
    told, true = (predictions[:, None] == names[None]), (labels[:, None] == names[None])
    shares = counts / counts.sum(1, keepdims=True)
    share_told, share_true, agreed = shares @ told, shares @ true, shares @ (predictions == labels)
    spread = (1 - (share_told**2).sum(1)) * (1 - (share_true**2).sum(1))
    spread = np.where(spread > 1e-12, spread, 0)  # one class only: 0 but for rounding
    return 100 * ratio(agreed - (share_told * share_true).sum(1), np.sqrt(spread), 0)


def correlation(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson's correlation in percent [resamples], of x and y [examples] or [resamples, examples];
    nan of a constant."""
    weights = counts / counts.sum(1, keepdims=True)
    x, y = (np.broadcast_to(each, weights.shape) for each in (x, y))
    size = (weights * x**2).sum(1) * (weights * y**2).sum(1)
    x, y = (each - (weights * each).sum(1, keepdims=True) for each in (x, y))
    spread = (weights * x**2).sum(1) * (weights * y**2).sum(1)
    spread = np.where(spread > 1e-24 * size, spread, 0)  # a constant's is 0 but for rounding
    return 100 * ratio((weights * x * y).sum(1), np.sqrt(spread))


def constant(*arrays: np.ndarray) -> bool:
    """Whether a correlation is undefined."""
    return any(len(array) < 2 or not np.isfinite(array).all() or np.ptp(array) == 0 for array in arrays)


def pearson_value(predictions, labels):
    """Linear correlation."""
    if constant(predictions, labels):
        return math.nan
    predictions, labels = predictions.astype(float), labels.astype(float)  # SciPy adds up in the type that it is given
    return 100 * float(stats.pearsonr(predictions, labels).statistic)


def pearson_resampled(predictions, labels, counts):
    """Linear correlation of the draws."""
    return correlation(predictions.astype(float), labels.astype(float), counts)


def spearman_value(predictions, labels):
    """Correlation of the ranks."""
    return math.nan if constant(predictions, labels) else 100 * float(stats.spearmanr(predictions, labels).statistic)


def spearman_resampled(predictions, labels, counts):
    """Correlation of the ranks among the draws."""
    return correlation(ranks(predictions, counts), ranks(labels, counts), counts)


def ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rank of each example in each resample [resamples, examples]; equal ones share their mean rank."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first, last = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    up_to = np.pad(np.cumsum(counts[:, order], axis=1), [(0, 0), (1, 0)])
    return (up_to[:, first] + up_to[:, last] + 1) / 2


def language_value(key: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    """Returns a figure of `summary` of all windows together."""
    tokens, num_bytes = labels.sum(0)
    return float(summary(float(predictions.sum(dtype=np.float64)), int(tokens), int(num_bytes))[key])


def loss_resampled(predictions, labels, counts):
    """Nats per token; nan where no window drawn has one."""
    return -ratio(counts @ predictions.astype(float), counts @ labels[:, 0])


def perplexity_resampled(predictions, labels, counts):
    """Perplexity per token."""
    return np.exp(loss_resampled(predictions, labels, counts))


def bits_per_byte_resampled(predictions, labels, counts):
    """Bits per byte of the text."""
    return -ratio(counts @ predictions.astype(float), counts @ labels[:, 1]) / math.log(2)
