"""Weight averaging: the mean of the weights after each of the last epochs of a training.

Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, arXiv:1803.05407.
The authors recompute BatchNorm's statistics for the averaged weights, with one more pass over the images.
Here the statistics of the epochs are averaged, too: the same where the learning rate ends low (cosine).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class WeightAverage:
    """A running mean in float32; a checkpoint holds its state.

    Attributes:
        mean: One array for each variable of the model; empty before the first epoch.
        count: Number of epochs in the mean.
    """

    def __init__(self, mean: Sequence[NDArray[np.generic]] = (), count: int = 0) -> None:
        self.mean = [np.asarray(each, np.float32) for each in mean]
        self.count = count

    def add(self, weights: Sequence[NDArray[np.generic]]) -> None:
        """Add the weights after an epoch."""
        self.count += 1
        if self.count == 1:
            self.mean = [np.array(weight, np.float32) for weight in weights]
            return
        for mean, weight in zip(self.mean, weights, strict=True):
            mean += (np.asarray(weight, np.float32) - mean) / np.float32(self.count)
