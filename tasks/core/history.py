"""The training history: what train writes to history.json, one row per epoch, and the report shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """The figures of one epoch.

    Attributes:
        epoch: Number of the epoch over both phases, from 1.
        phase: `transfer` or `fine-tuning`.
        loss: Mean training loss of the images.
        accuracy: Training accuracy in 0..1.
        val_loss: Mean validation loss; None without validation images.
        val_accuracy: Validation accuracy in 0..1; None without validation images.
        learning_rate: Learning rate of the last step.
    """

    epoch: int
    phase: str
    loss: float
    accuracy: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    learning_rate: float

    def document(self) -> dict[str, int | float | str]:
        """Return the figures that there are, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}
