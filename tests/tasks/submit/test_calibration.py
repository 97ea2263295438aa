"""Temperature scaling: it finds the temperature that was there, and changes no label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemaflow.tasks.inference.temperature import tempered
from hemaflow.tasks.submit.calibration import fit_temperature


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_is_found(true: float) -> None:
    """Labels drawn from probabilities at one temperature, answers given at 1."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 5))
    drawn = (softmax(logits / true).cumsum(1) > rng.random((len(logits), 1))).argmax(1)
    assert fit_temperature(drawn, softmax(logits)) == pytest.approx(true, rel=0.05)


def test_without_images_nothing_changes() -> None:
    assert fit_temperature(np.zeros(0, np.int64), np.zeros((0, 3))) == 1.0


def test_a_model_that_is_always_right_is_made_as_sure_as_allowed() -> None:
    labels = np.arange(30) % 3
    assert fit_temperature(labels, 0.1 + 0.7 * np.eye(3)[labels]) == pytest.approx(0.05, rel=0.1)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20))
def test_no_label_changes_and_rows_sum_to_one(seed: int, temperature: float) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(4), 20)
    after = tempered(probabilities, temperature)
    assert np.allclose(after.sum(1), 1, atol=1e-6)
    best = np.take_along_axis(after, probabilities.argmax(1)[:, None], axis=1)[:, 0]
    assert (best >= after.max(1) - 1e-7).all()
