"""What a temperature does to probabilities. Needs numpy alone: a submission carries this text."""

from __future__ import annotations

from typing import Any

import numpy as np

FLOOR = 1e-7
"""Below it a probability is taken for this much, as keras.losses does: no logarithm of 0."""


def tempered(probabilities: Any, temperature: float) -> Any:
    """Return p^(1/T), scaled so that each row sums to 1: for a softmax, its logits divided by T.

    Args:
        probabilities: float[N, C], rows that sum to 1.
        temperature: T; above 1 makes them less sure, below 1 surer.

    Returns:
        float32[N, C].
    """
    powers = np.clip(np.asarray(probabilities, np.float64), FLOOR, 1.0) ** (1 / temperature)
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)
