"""Robustness: the figures are those of the answers under MedMNIST-C."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hemaflow.tasks.core.run_metrics import SplitMetrics
from hemaflow.tasks.evaluate.robustness import evaluate_medmnist_c
from hemaflow.tasks.predict.medmnist_c import ALEXNET_BALANCED_ERROR, MEDMNIST_C

NAMES = list(MEDMNIST_C)


def test_an_empty_split_has_no_figures() -> None:
    nothing = np.zeros(0, np.int64), np.zeros((11, 5, 0), np.int64)
    assert evaluate_medmnist_c(*nothing, ["a"], resamples=10, seed=0) == SplitMetrics(num_examples=0)


def test_the_figures_of_known_answers() -> None:
    labels = np.array([0, 0, 0, 1])
    named = np.tile(labels, (11, 5, 1))
    bubble, saturate = NAMES.index("bubble"), NAMES.index("saturate")
    named[bubble, 4] = [1, 0, 0, 0]  # accuracy 1/2, balanced (2/3 + 0) / 2
    named[saturate, :, 0] = 1  # accuracy 3/4, balanced (2/3 + 1) / 2, at every severity
    entry = evaluate_medmnist_c(labels, named, ["a", "b", "never seen"], resamples=500, seed=0)
    rows = {row.corruption: row for row in entry.corruptions}
    assert list(rows) == NAMES
    assert rows["pixelate"].accuracy == [1.0] * 5
    assert rows["pixelate"].balanced_error == 0.0
    assert rows["bubble"].accuracy == [1, 1, 1, 1, 0.5]
    assert rows["bubble"].balanced_accuracy[4] == pytest.approx(1 / 3)
    assert rows["bubble"].balanced_error == pytest.approx((2 / 3) / 5)
    assert rows["bubble"].balanced_error_to_alexnet == pytest.approx((2 / 3) / 5 / 0.1290)
    assert rows["saturate"].balanced_error == pytest.approx(1 / 6)
    assert entry.balanced_error == pytest.approx((2 / 15 + 1 / 6) / 11)
    ratios = (2 / 15 / 0.1290 + 1 / 6 / ALEXNET_BALANCED_ERROR["saturate"]) / 11
    assert entry.balanced_error_to_alexnet == pytest.approx(ratios)
    assert entry.accuracy == pytest.approx(1 - (2 + 5) / (55 * 4))
    assert entry.balanced_accuracy == pytest.approx(1 - entry.balanced_error)
    low, high = entry.intervals["accuracy"]
    assert low < entry.accuracy < high <= 1.0
    assert entry.worst_corruption == "saturate"
    recalls = {row.name: row.recall for row in entry.per_class}
    assert recalls == pytest.approx({"a": 1 - 6 / (55 * 3), "b": 54 / 55, "never seen": 0})
    assert entry.worst_class == "a"
    assert entry.num_examples == 4
    json.dumps(entry.model_dump(), allow_nan=False)


def test_the_interval_is_over_images_not_over_their_corruptions() -> None:
    """One image in four that is always wrong leaves as much doubt as four clean images would."""
    labels = np.array([0, 0, 0, 1])
    named = np.tile([0, 0, 0, 0], (11, 5, 1))
    entry = evaluate_medmnist_c(labels, named, ["a", "b"], resamples=500, seed=0)
    low, high = entry.intervals["accuracy"]
    assert low <= 0.5
    assert high == pytest.approx(1.0)
