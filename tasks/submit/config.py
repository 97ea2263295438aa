"""Config of submit: everything that changes the submission zip."""

from __future__ import annotations

from hemaflow.tasks.core.stage import StageConfig


class SubmitConfig(StageConfig):
    """All that changes the submission; the views and the batch size are those of evaluate."""

    tta: bool = True
    """Whether predict averages over the views that evaluate chose. A prediction takes time in proportion to
    their number."""
    calibrate: bool = False
    """Whether probabilities are scaled by one temperature that is fitted on val. No label changes."""
