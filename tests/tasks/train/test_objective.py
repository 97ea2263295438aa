from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from hemaflow.tasks.train.objective import balanced_weights


def test_weights_are_those_of_scikit_learn() -> None:
    counts = [3, 50, 7]
    labels = np.repeat(np.arange(3), counts)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(counts), expected)
    assert np.dot(balanced_weights(counts), counts) == pytest.approx(sum(counts))


def test_a_class_without_images_weighs_nothing() -> None:
    assert balanced_weights([10, 0, 30]) == (2.0, 0.0, 40 / 60)
