"""Config of submit: everything that changes the submission zip."""

from __future__ import annotations

from hemaflow.tasks.core.stage import StageConfig


class SubmitConfig(StageConfig):
    """All that changes the submission; the views and the batch size are those of evaluate."""

    tta: bool = True
    """Whether `predict` averages over evaluate's views; slower by their number. They are the image alone
    where others would cost accuracy on val."""
    calibrate: bool = False
    """Whether `probabilities` are scaled by one temperature, fitted on val; no label changes."""
