"""Values against scikit-learn and SciPy; intervals against their definitions, a plain bootstrap and simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from prism_jax.metrics import formulas, scores
from prism_jax.metrics.scores import METRICS


def two_models(examples: int = 200, classes: int = 2):
    """Labels, and the classes that a better and a worse model tell."""
    rng = np.random.default_rng(examples + classes)
    labels = rng.integers(0, classes, examples)
    predictions = [
        np.where(rng.random(examples) < wrong, rng.integers(0, classes, examples), labels) for wrong in (0.2, 0.5)
    ]
    return labels, *predictions


def data_for(name: str, examples: int = 200):
    """Labels of the kind that a metric takes, and the predictions of a better and a worse model."""
    rng = np.random.default_rng(examples)
    if METRICS[name].check is scores.check_windows:
        labels = np.stack([rng.integers(1, 60, examples), rng.integers(60, 300, examples)], axis=1)
        return labels, *(-labels[:, 0] * rng.gamma(9, mean / 9, examples) for mean in (2.5, 3.5))
    labels, better, worse = two_models(examples)
    if METRICS[name].check is scores.check_numbers:
        labels = np.round(labels + rng.random(examples), 1)  # ratings with ties
        return labels, *(np.round(middle + rng.normal(size=examples), 1) for middle in (better, worse))
    return labels, better, worse


def outside(name: str, predictions, labels) -> float:
    """The figure by another hand."""
    if METRICS[name].check is scores.check_windows:
        tokens, num_bytes = labels.sum(0)
        key = name.removesuffix("_nats")
        return formulas.summary(predictions.sum(), tokens, num_bytes)[key]
    return (
        100
        * {
            "accuracy_percent": lambda: accuracy_score(labels, predictions),
            "f1_percent": lambda: f1_score(labels, predictions),
            "matthews_percent": lambda: matthews_corrcoef(labels, predictions),
            "pearson_percent": lambda: stats.pearsonr(predictions, labels).statistic,
            "spearman_percent": lambda: stats.spearmanr(predictions, labels).statistic,
        }[name]()
    )


def plain_bootstrap(figure, examples: int) -> np.ndarray:
    """The figure on the rows of each resample: the same draws, one after the other."""
    rng = np.random.default_rng(scores.SEED)
    return np.array([figure(rng.integers(examples, size=examples)) for _ in range(scores.RESAMPLES)])


def test_accuracy_with_wilson_interval():
    correct = np.arange(100) < 81
    value, (low, high) = scores.accuracy(correct)
    assert value == 81
    # Wilson: the p for which |81/100 - p| = z sqrt(p (1 - p) / 100).
    for p in (low / 100, high / 100):
        assert abs(0.81 - p) == pytest.approx(scores.Z95 * np.sqrt(p * (1 - p) / 100), rel=1e-6)


def test_accuracy_of_a_perfect_subset_is_not_certain():
    assert scores.accuracy(np.ones(50, bool))[1] == pytest.approx((92.86, 100), abs=0.01)


def test_paired_difference():
    reference, correct = np.zeros(200, bool), np.zeros(200, bool)
    reference[:100], correct[10:105] = True, True  # 10 lost, 5 won
    value, (low, high) = scores.paired_difference(correct, reference)
    assert value == pytest.approx(-2.5)
    assert low < -2.5 < high
    agreeing, interval = scores.paired_difference(reference, reference)
    assert agreeing == 0
    assert interval == pytest.approx((-0.97, 0.97), abs=0.01)


def test_the_paired_interval_covers_the_truth_95_times_in_100():
    rng, hits, runs = np.random.default_rng(0), 0, 2000
    for _ in range(runs):
        reference = rng.random(250) < 0.8
        correct = np.where(rng.random(250) < 0.1, rng.random(250) < 0.5, reference)
        _, (low, high) = scores.paired_difference(correct, reference)
        hits += low <= 100 * (0.05 - 0.1 * 0.8) <= high
    assert hits / runs == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("name", METRICS)
def test_scores_agree_with_a_plain_bootstrap_of_the_libraries(name, monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 200)
    labels, better, _ = data_for(name)
    value, interval = scores.score(METRICS[name], better, labels)
    assert value == pytest.approx(outside(name, better, labels), rel=1e-12)
    if name == "accuracy_percent":
        assert interval == scores.accuracy(better == labels)[1]
        return
    draws = plain_bootstrap(lambda rows: outside(name, better[rows], labels[rows]), len(labels))
    assert interval == pytest.approx(np.percentile(draws, [2.5, 97.5]), rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_differences_are_paired(name, monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 200)
    labels, better, worse = data_for(name)
    metric = METRICS[name]
    value, (low, high) = scores.difference(metric, better, worse, labels)
    assert value == pytest.approx(scores.score(metric, better, labels)[0] - scores.score(metric, worse, labels)[0])
    assert (low > 0) if metric.higher_is_better else (high < 0)
    same, interval = scores.difference(metric, better, better, labels)
    assert same == 0
    assert interval == ((0, 0) if name != "accuracy_percent" else scores.paired_difference(labels > -1, labels > -1)[1])
    if name == "accuracy_percent":
        assert (low, high) == scores.paired_difference(better == labels, worse == labels)[1]
        return
    draws = plain_bootstrap(
        lambda rows: outside(name, better[rows], labels[rows]) - outside(name, worse[rows], labels[rows]), len(labels)
    )
    assert (low, high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), rel=1e-9)


def test_matthews_of_three_classes(monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 200)
    labels, better, _ = two_models(classes=3)
    value, interval = scores.score(METRICS["matthews_percent"], better, labels)
    assert value == pytest.approx(100 * matthews_corrcoef(labels, better))
    draws = plain_bootstrap(lambda rows: 100 * matthews_corrcoef(labels[rows], better[rows]), len(labels))
    assert interval == pytest.approx(np.percentile(draws, [2.5, 97.5]))


def test_resamples_are_the_same_in_blocks_of_any_size(monkeypatch):
    whole = np.concatenate(list(scores.resamples(30)))
    monkeypatch.setattr(scores, "BLOCK", 70)
    assert np.array_equal(np.concatenate(list(scores.resamples(30))), whole)
    assert whole.shape == (scores.RESAMPLES, 30)
    assert (whole.sum(1) == 30).all()


def test_the_bootstrap_interval_of_a_mean_is_its_normal_one():
    rng = np.random.default_rng(0)
    nats, tokens = -rng.gamma(4, 1, 4000), np.tile([1, 4], (4000, 1))
    value, (low, high) = scores.score(METRICS["loss_nats"], nats, tokens)
    spread = scores.Z95 * np.std(nats) / math.sqrt(4000)
    assert (low, high) == pytest.approx((value - spread, value + spread), abs=0.1 * spread)


def test_figures_of_uniform_guessing_have_closed_forms():
    windows = np.array([[10, 20], [30, 80]])
    nats = -math.log(256) * windows[:, 0]
    assert scores.score(METRICS["loss_nats"], nats, windows)[0] == pytest.approx(math.log(256))
    assert scores.score(METRICS["perplexity"], nats, windows) == (pytest.approx(256), pytest.approx((256, 256)))
    assert scores.score(METRICS["bits_per_byte"], nats, windows)[0] == pytest.approx(8 * 40 / 100)


@pytest.mark.parametrize(("name", "value"), [("f1_percent", 100), ("matthews_percent", 100)])
def test_all_right(name, value):
    labels = np.arange(40) % 2
    assert scores.score(METRICS[name], labels, labels) == (pytest.approx(value), pytest.approx((value, value)))


@pytest.mark.parametrize(("name", "predicted"), [("f1_percent", 0), ("matthews_percent", 0), ("matthews_percent", 1)])
def test_one_class_for_all_scores_zero(name, predicted):
    labels = np.arange(40) % 2
    assert scores.score(METRICS[name], np.full(40, predicted), labels) == (0, (0, 0))


@pytest.mark.parametrize("name", ["pearson_percent", "spearman_percent"])
@pytest.mark.parametrize("predicted", [0.1, math.nan, math.inf])
def test_a_correlation_with_a_constant_is_undefined(name, predicted):
    labels = np.arange(20) / 4
    for figure in (
        scores.score(METRICS[name], np.full(20, predicted), labels),
        scores.score(METRICS[name], labels, np.full(20, 2.0)),
        scores.difference(METRICS[name], labels, np.full(20, predicted), labels),
    ):
        assert np.isnan([figure[0], *figure[1]]).all()
    assert scores.recovery(METRICS[name], labels, np.full(20, predicted), labels, labels) is None


@pytest.mark.parametrize("name", ["pearson_percent", "spearman_percent"])
def test_resamples_that_are_constant_are_left_out(name):
    # Of three examples one resample in nine repeats one of them; the others are on a line.
    value, interval = scores.score(METRICS[name], np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.5, 0.7]))
    assert (value, interval) == (pytest.approx(100), pytest.approx((100, 100)))


def test_a_model_that_diverged_has_no_interval():
    windows = np.array([[10, 20], [30, 80]])
    value, interval = scores.score(METRICS["loss_nats"], np.array([-1.0, -math.inf]), windows)
    assert value == math.inf
    assert np.isnan(interval).all()


def test_recovery():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 2000)
    wrong = (labels + 1) % 5
    control = np.where(np.arange(2000) < 100, wrong, labels)  # 95 %
    as_is = np.where(np.arange(2000) < 500, wrong, labels)  # 75 %
    tuned = np.where(np.arange(2000) < 200, wrong, labels)  # 90 %
    metric = METRICS["accuracy_percent"]
    value, (low, high) = scores.recovery(metric, tuned, as_is, control, labels)
    assert value == pytest.approx(75)
    # 300 of the 400 examples that were lost: a share, with a share's error.
    error = 100 * scores.Z95 * math.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == pytest.approx((75 - error, 75 + error), abs=0.1 * error)
    assert scores.recovery(metric, control, as_is, control, labels)[1] == pytest.approx((100, 100))
    assert scores.recovery(metric, as_is, as_is, control, labels) == (0, (0, 0))


def test_recovery_of_a_figure_that_should_be_low():
    labels, better, worse = data_for("bits_per_byte")
    value, (low, high) = scores.recovery(METRICS["bits_per_byte"], (better + worse) / 2, worse, better, labels)
    assert value == pytest.approx(50)
    assert (low, high) == pytest.approx((50, 50))


def test_no_recovery_of_a_loss_that_was_not_seen():
    labels, better, _ = two_models()
    almost = np.where(np.arange(200) == np.flatnonzero(better == labels)[0], 1 - labels, better)
    assert scores.recovery(METRICS["accuracy_percent"], better, almost, better, labels) is None
    assert scores.recovery(METRICS["f1_percent"], better, better, better, labels) is None


def test_recovery_as_the_paper_has_it():
    assert scores.recovery_published(97.43, 95.64, 98.01) == pytest.approx(75.5, abs=0.05)
    assert scores.recovery_published(97.43, 98.01, 98.01) is None


@pytest.mark.parametrize(
    ("name", "predictions", "labels", "message"),
    [
        ("f1_percent", [], [], "no examples to compute f1_percent of; give at least one"),
        ("accuracy_percent", [], [], "no examples to compute accuracy_percent"),
        ("accuracy_percent", [1, 0], [1], "accuracy_percent has predictions (2,), but labels (1,); give one each"),
        ("accuracy_percent", [0.2], [1], "accuracy_percent takes classes, int [examples], not float64"),
        ("f1_percent", [2, 1], [0, 1], "f1_percent takes the classes 0 and 1, not [0, 1, 2]"),
        ("pearson_percent", [2, 1], [0.5, 1], "pearson_percent takes numbers, float [examples], not int64"),
        ("perplexity", [-2.0], [3], "int [windows, 2] of tokens and bytes, not float64 and int64 (1,)"),
        ("perplexity", [-2.0], [[0, 3]], "at least one token and one byte, not [0, 3]"),
    ],
)
def test_wrong_inputs_are_refused(name, predictions, labels, message):
    arrays = np.array(predictions), np.array(labels)
    with pytest.raises(scores.InputError) as refused:
        scores.score(METRICS[name], *arrays)
    assert message in str(refused.value)
    with pytest.raises(scores.InputError):
        scores.difference(METRICS[name], arrays[0], arrays[0], arrays[1])


def test_a_reference_of_another_length_is_refused():
    with pytest.raises(scores.InputError, match=r"predictions \(1,\), but labels \(2,\)"):
        scores.difference(METRICS["accuracy_percent"], np.array([1, 0]), np.array([1]), np.array([1, 0]))


def test_a_correlation_of_float32_is_not_added_up_in_float32():
    """Far from 0, where float32 keeps few digits of a mean."""
    rng = np.random.default_rng(0)
    labels = (1e5 + rng.normal(size=3000)).astype(np.float32)
    predictions = (labels + rng.normal(size=3000)).astype(np.float32)
    value, _ = scores.score(METRICS["pearson_percent"], predictions, labels)
    assert value == pytest.approx(100 * np.corrcoef(predictions.astype(float), labels.astype(float))[0, 1], abs=1e-9)
