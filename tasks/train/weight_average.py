"""Weight averaging: the mean of the weights that a training had after each of its last epochs.

Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, arXiv:1803.05407.
The authors compute BatchNorm's statistics anew for the averaged weights, which takes one more pass over the
images; here those of the epochs are averaged too, which is the same where the rate ends low (cosine).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class WeightAverage:
    """A running mean, in float32, whose state a checkpoint holds.

    Attributes:
        mean: One array for each variable of the model; none before the first epoch.
        count: How many epochs are in it.
    """

    def __init__(self, mean: Sequence[NDArray[Any]] = (), count: int = 0) -> None:
        self.mean = list(mean)
        self.count = count

    def add(self, weights: Sequence[NDArray[Any]]) -> None:
        """Take in the weights after an epoch."""
        self.count += 1
        if self.count == 1:
            self.mean = [np.array(weight, np.float32) for weight in weights]
            return
        for mean, weight in zip(self.mean, weights, strict=True):
            mean += (weight - mean) / np.float32(self.count)
