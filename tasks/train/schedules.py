"""What changes over the epochs: the learning rate, when to stop, which weights are the best.

Small objects whose state is JSON: a checkpoint holds them, and a resumed training decides as an uninterrupted
one does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def cosine_with_warmup(step: int, total_steps: int, warmup_steps: int) -> float:
    """Return the factor on the peak learning rate at a step: linear up, then half a cosine down to 0.

    Source: arXiv:1608.03983 without restarts; warm-up as in arXiv:1706.02677.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


@dataclass
class Plateau:
    """Multiplies the learning rate by `factor` when val_loss has not fallen for `patience` epochs."""

    patience: int
    factor: float
    min_learning_rate: float
    scale: float = 1.0
    best: float = math.inf
    waited: int = 0

    def update(self, val_loss: float, learning_rate: float) -> None:
        """Record an epoch; `learning_rate` is the peak of the phase, before scaling."""
        if val_loss < self.best - 1e-4:  # keras.callbacks.ReduceLROnPlateau's min_delta
            self.best, self.waited = val_loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            # A phase may begin below the floor.
            lowest = min(self.scale, self.min_learning_rate / learning_rate)
            self.scale = max(self.scale * self.factor, lowest)
            self.waited = 0


@dataclass
class Best:
    """Remembers which epoch had the best val_accuracy, and says when to stop."""

    patience: int
    accuracy: float = -1.0
    loss: float = math.inf
    epoch: int = -1
    waited: int = 0

    def update(self, epoch: int, val_accuracy: float, val_loss: float) -> bool:
        """Record an epoch; return whether it is the best so far: by accuracy, then by loss."""
        if (val_accuracy, -val_loss) > (self.accuracy, -self.loss):
            self.accuracy, self.loss, self.epoch, self.waited = val_accuracy, val_loss, epoch, 0
            return True
        self.waited += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether `patience` epochs brought no improvement; never where patience is 0."""
        return 0 < self.patience <= self.waited
