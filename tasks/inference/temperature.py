"""Temperature scaling of probabilities. Needs only numpy: a submission carries this text."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FLOOR = 1e-7
"""Smallest probability, as in keras.losses: smaller ones count as this, so that no logarithm is infinite."""


def tempered(probabilities: ArrayLike, temperature: float) -> NDArray[np.float32]:
    """Return p^(1/T), scaled so that each row sums to 1: for a softmax, its logits divided by T.

    Args:
        probabilities: float[N, C], rows that sum to 1.
        temperature: T; above 1 makes the probabilities less confident, below 1 more confident.

    Returns:
        float32[N, C].
    """
    powers = np.clip(np.asarray(probabilities, np.float64), FLOOR, 1.0) ** (1 / temperature)
    scaled: NDArray[np.float32] = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    return scaled
