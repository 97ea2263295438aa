from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from hemaflow.tasks.core.run_metrics import Flips
from hemaflow.tasks.evaluate import metrics

NUM_CLASSES = 4
CLASSES = ["a", "b", "c", "d"]


def case(seed: int, num_examples: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES, num_examples)
    labels[:NUM_CLASSES] = np.arange(NUM_CLASSES)  # scikit-learn wants every class
    logits = rng.normal(size=(num_examples, NUM_CLASSES)).round(1)  # with ties
    logits[np.arange(num_examples), labels] += skill
    weights = np.exp(logits)
    return labels, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@given(st.integers(0, 1000), st.integers(8, 200), st.floats(0, 4))
def test_scores_are_those_of_scikit_learn(seed: int, num_examples: int, skill: float) -> None:
    labels, probabilities = case(seed, num_examples, skill)
    result = metrics.evaluate(labels, probabilities, CLASSES, resamples=2, seed=0)
    predicted = probabilities.argmax(1)
    exact = probabilities.astype(np.float64)
    assert result.accuracy == pytest.approx((predicted == labels).mean())
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert result.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    per_class = [roc_auc_score(labels == k, exact[:, k]) for k in range(NUM_CLASSES)]
    assert result.macro_auc == pytest.approx(np.mean(per_class))
    assert result.nll == pytest.approx(
        log_loss(labels, exact / exact.sum(1, keepdims=True), labels=range(NUM_CLASSES)), abs=1e-5
    )
    assert sum(map(sum, result.confusion)) == num_examples
    json.dumps(result.model_dump(mode="python"), allow_nan=False)


def test_a_resample_counts_as_the_examples_repeated() -> None:
    labels, probabilities = case(3, 60, 1.0)
    counts = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=1)
    repeated = np.repeat(np.arange(60), counts[0])
    weighted = metrics.scores(labels, probabilities, counts.astype(float))
    plain = metrics.scores(labels[repeated], probabilities[repeated], np.ones((1, 60)))
    for name, values in weighted.items():
        assert values[0] == pytest.approx(plain[name][0]), name


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Of many samples of a classifier that is right in 80 of 100 cases."""
    inside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        right = rng.random(150) < 0.8
        probabilities = np.where(right[:, None], [0.7, 0.3], [0.3, 0.7])
        found = metrics.intervals(np.zeros(150, np.int64), probabilities, resamples=200, seed=seed)
        low, high = found["accuracy"]
        inside += low <= 0.8 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_the_interval_of_a_mean_is_that_of_the_accuracy() -> None:
    labels, probabilities = case(5, 80, 1.0)
    right = (probabilities.argmax(1) == labels).astype(float)
    alike = metrics.intervals(labels, probabilities, resamples=250, seed=3)["accuracy"]
    assert metrics.mean_interval(right, resamples=250, seed=3) == pytest.approx(alike)


def test_calibration_of_known_cases() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    sure = np.tile([1.0, 0.0], (10, 1))
    assert metrics.evaluate(labels, sure, ["a", "b"], resamples=2, seed=0).ece == pytest.approx(0.2)
    honest = np.tile([0.8, 0.2], (10, 1))
    assert metrics.evaluate(labels, honest, ["a", "b"], resamples=2, seed=0).ece == pytest.approx(0.0)
    reliability = metrics.reliability(labels, honest)
    full = int(np.argmax(reliability.count))
    assert reliability.count[full] == 10
    assert reliability.confidence[full] == pytest.approx(0.8)
    assert reliability.accuracy[full] == pytest.approx(0.8)


def test_a_wrong_certainty_costs_much_but_not_infinitely() -> None:
    result = metrics.evaluate(np.array([1]), np.array([[1.0, 0.0]]), ["a", "b"], resamples=2, seed=0)
    assert math.isfinite(result.nll)
    assert result.nll > 10


def test_absent_classes_and_empty_splits_give_numbers() -> None:
    one_class = metrics.evaluate(
        np.zeros(5, np.int64), np.tile([0.9, 0.1], (5, 1)), ["a", "b"], resamples=5, seed=0
    )
    assert one_class.balanced_accuracy == 1.0
    assert json.dumps(one_class.model_dump(mode="python"), allow_nan=False)
    none = metrics.evaluate(np.zeros(0, np.int64), np.zeros((0, 2)), ["a", "b"], resamples=5, seed=0)
    assert none.model_dump(exclude_unset=True) == {"num_examples": 0}


def test_flips_tell_what_tta_changed() -> None:
    labels = np.array([0, 0, 0, 0])
    plain = np.eye(3)[[0, 1, 0, 1]]
    tta = np.eye(3)[[0, 0, 1, 2]]
    assert metrics.flips(labels, plain, tta) == Flips(to_right=1, to_wrong=1, changed_wrong=1)


def test_a_metric_is_one_function_and_is_then_measured_with_its_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics.METRICS, "_entries", dict(metrics.METRICS))

    @metrics.metric("error", "Error", "share of the images named wrong", percent=True)
    def error(sample: metrics.Resamples) -> metrics.Values:
        return 1 - metrics.accuracy(sample)

    labels, probabilities = case(7, 40, 1.0)
    measured = metrics.evaluate(labels, probabilities, CLASSES, resamples=20, seed=0)
    assert measured.accuracy is not None
    assert measured.score("error") == pytest.approx(1 - measured.accuracy)
    low, high = measured.intervals["error"]
    assert low <= 1 - measured.accuracy <= high
    assert measured.model_dump(mode="json", exclude_unset=True)["error"] == measured.score("error")
    assert metrics.METRICS["error"].text == metrics.MetricText(
        "Error", "share of the images named wrong", True
    )
    with pytest.raises(ValueError, match="two entries called 'error'"):
        metrics.metric("error", "", "")(lambda sample: sample.totals)
