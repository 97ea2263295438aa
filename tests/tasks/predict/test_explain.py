"""Which images are explained."""

from __future__ import annotations

import numpy as np

from hemaflow.tasks.predict.explain import choose_cases

LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 0, 2])
NAMED = [0, 0, 1, 0, 2, 1, 0, 0, 0]
SURE = [0.6, 0.9, 0.7, 0.5, 0.8, 0.6, 0.9, 0.9, 0.7]


def test_of_each_class_the_surest_right_one_and_the_surest_mistakes() -> None:
    probabilities = np.zeros((len(NAMED), 3), np.float32)
    for row, (label, sure) in enumerate(zip(NAMED, SURE, strict=True)):
        probabilities[row] = (1 - sure) / 2
        probabilities[row, label] = sure
    # Of two that are as sure, the first; class 2 has no right one.
    assert choose_cases(LABELS, probabilities, 3) == [1, 2, 5, 6, 4, 8]
    assert choose_cases(LABELS, probabilities, 1) == [1, 5, 8]
    assert choose_cases(LABELS, probabilities, 0) == []
    assert choose_cases(LABELS[:0], probabilities[:0], 3) == []
