"""Calibration: one temperature that makes confidence match accuracy.

Source: temperature scaling in Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599. It
keeps the order of the classes, so no label changes.
"""

from __future__ import annotations

import numpy as np

from hemaflow.tasks.inference.calibration import Labels, Probabilities
from hemaflow.tasks.inference.temperature import FLOOR

TEMPERATURES = (0.05, 20.0)
"""Search range of the temperature."""


def fit_temperature(labels: Labels, probabilities: Probabilities) -> float:
    """Return the temperature that minimizes the negative log-likelihood; 1 without images.

    Args:
        labels: int64[N].
        probabilities: float[N, C].
    """
    if not len(labels):
        return 1.0
    from scipy.optimize import minimize_scalar

    logits = np.log(np.clip(probabilities.astype(np.float64), FLOOR, 1.0))

    def nll(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled -= scaled.max(1, keepdims=True)
        likelihood = scaled[np.arange(len(labels)), labels] - np.log(np.exp(scaled).sum(1))
        return -float(likelihood.mean())

    found = minimize_scalar(nll, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))
