"""How far stated probabilities are from the truth: NLL and ECE, of resamples of one set of predictions.

Both take labels int64[N], probabilities float[N, C] whose rows sum to 1, and counts float64[R, N], how often
each example is in each resample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.inference.temperature import FLOOR

NUM_BINS = 15
"""Equal-width bins of the expected calibration error, arXiv:1706.04599."""

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32] | NDArray[np.float64]
Values = NDArray[np.float64]


def nll(labels: Labels, probabilities: Probabilities, counts: Values) -> Values:
    """Return float64[R], the mean negative log-likelihood in nats; probabilities are at least FLOOR."""
    likelihood = probabilities[np.arange(len(labels)), labels]
    means: Values = counts @ -np.log(np.clip(likelihood, FLOOR, 1.0)) / counts.sum(1)
    return means


def ece(labels: Labels, probabilities: Probabilities, counts: Values) -> Values:
    """Return float64[R], the expected calibration error over bins of equal width (arXiv:1706.04599)."""
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    membership = np.eye(NUM_BINS)[bins(confidence)]
    gaps = np.abs(counts @ (membership * (right - confidence)[:, None]))
    errors: Values = gaps.sum(1) / counts.sum(1)
    return errors


def bins(confidence: Probabilities) -> Labels:
    """Return int64[N], the bin of each probability of float[N]."""
    numbers: Labels = np.ceil(confidence * NUM_BINS).astype(np.int64) - 1
    return np.clip(numbers, 0, NUM_BINS - 1)
