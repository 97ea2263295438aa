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
SPOILED = OnlyWith("robustness", ("heavy_mix", "full"))


class EvaluateConfig(StageConfig):
    """All that changes the predictions and the report."""

    tta: str = "flips"
    """Views that predictions are averaged over: a preset (none, flips, dihedral, seed, wide), views separated
    by commas, or search, which finds those that help on val. Views that lose accuracy on val are not used."""
    tta_candidates: Annotated[str, SEARCHED] = "wide"
    """Views that the search may choose: a preset, or views separated by commas. Each takes one more pass over
    val, clean and under the heavy mix."""
    tta_max_views: Annotated[PositiveInt, SEARCHED] = 8
    """Maximum number of views that the search chooses. The time of a prediction is proportional to it; the
    default is the number of views in dihedral."""
    batch_size: PositiveInt = 256
    """Number of images at once on the device; the submission uses the same."""
    bootstrap_resamples: PositiveInt = 1000
    """Number of bootstrap resamples of the intervals."""
    bootstrap_seed: NonNegativeInt = 0
    """Random seed of the bootstrap."""
    num_mistakes: NonNegativeInt = 24
    """Maximum number of mistakes that the report shows, the most confident first."""
    num_explained: NonNegativeInt = 3
    """Number of images of each class that the report explains by Grad-CAM: one right image, then the most
    confident mistakes; 0 for none."""
    robustness: Literal["none", "heavy_mix", "full"] = "full"
    """Spoiled images to measure: none, the heavy mix, or (full) the heavy mix and the corruptions of
    MedMNIST-C. full takes 56 more passes over each split, and one more for each view."""
    robustness_images: Annotated[NonNegativeInt, SPOILED] = 0
    """Number of images of each split to spoil, drawn at random; 0 for all."""
    robustness_seed: Annotated[NonNegativeInt, SPOILED] = 0
    """Random seed of that draw, of the heavy mix and of the corruptions."""

    @field_validator("robustness", mode="before")
    @classmethod
    def _rename_heavy(cls, robustness: object) -> object:
        return "heavy_mix" if robustness == "heavy" else robustness  # its name in earlier versions

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
        """Return the views to predict on val, the unchanged image first, each once."""
        return with_identity(parse_views(self.tta_candidates if self.tta == SEARCH else self.tta))


def with_identity(views: Sequence[str]) -> tuple[str, ...]:
    """Return views with the unchanged image first, each once."""
    return tuple(dict.fromkeys((IDENTITY, *views)))
