"""Config of evaluate: everything that changes the metrics and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import NonNegativeInt, PositiveInt, field_validator

from hemaflow.tasks.core.stage import OnlyWith, StageConfig
from hemaflow.tasks.evaluate.view_search import IDENTITY
from hemaflow.tasks.inference.views import parse_views

SEARCH = "search"
SEARCHED = OnlyWith("tta", (SEARCH,))
SPOILED = OnlyWith("robustness", ("heavy", "full"))


class EvaluateConfig(StageConfig):
    """All that changes the predictions and the report."""

    tta: str = "flips"
    """A preset of views (none, flips, dihedral, seed, wide), views divided by commas, or search: those that
    help on val. Views that cost accuracy on val are not used, whoever chose them."""
    tta_candidates: Annotated[str, SEARCHED] = "wide"
    """What search may choose from: a preset, or views divided by commas. Each is one more pass over val, and
    over its heavy mix."""
    tta_max_views: Annotated[PositiveInt, SEARCHED] = 8
    """The most that search may choose: as many as dihedral has. A submission takes as many times as long as
    there are views."""
    batch_size: PositiveInt = 256
    """Images at once on the device; the submission uses the same."""
    bootstrap_resamples: PositiveInt = 1000
    """Resamples of the intervals."""
    bootstrap_seed: NonNegativeInt = 0
    """Of the resamples."""
    num_mistakes: NonNegativeInt = 24
    """How many of the most confident mistakes the report shows."""
    num_explained: NonNegativeInt = 3
    """How many images of each class the report explains by Grad-CAM: one that is right, and the most
    confident mistakes; 0 for none."""
    robustness: Literal["none", "heavy", "full"] = "full"
    """What is measured of spoiled images: nothing, the heavy mix, or that and the corruptions of MedMNIST-C.
    `full` takes 56 more passes over each split, and one more for each view."""
    robustness_images: Annotated[NonNegativeInt, SPOILED] = 0
    """How many images of each split are spoiled, drawn by the seed; 0 for all."""
    robustness_seed: Annotated[NonNegativeInt, SPOILED] = 0
    """Of that draw, of the heavy mix and of the corruptions."""

    @field_validator("tta")
    @classmethod
    def _known_views(cls, tta: str) -> str:
        if tta != SEARCH:
            parse_views(tta, [SEARCH])
        return tta

    @field_validator("tta_candidates")
    @classmethod
    def _known_candidates(cls, candidates: str) -> str:
        parse_views(candidates)
        return candidates

    def asked_views(self) -> tuple[str, ...]:
        """Return the views that val is asked about, the image itself first, each once."""
        return with_identity(parse_views(self.tta_candidates if self.tta == SEARCH else self.tta))


def with_identity(views: Sequence[str]) -> tuple[str, ...]:
    """Return views with the image itself first, each once."""
    return tuple(dict.fromkeys((IDENTITY, *views)))
