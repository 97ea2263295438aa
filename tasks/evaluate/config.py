"""Config of evaluate: what the model is asked, and how its answers are judged.

One section of a config serves two stages. predict runs the network: `passes` gives its config, and nothing
else of this section enters its key. evaluate does the rest.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import NonNegativeInt, PositiveInt, field_validator

from hemaflow.tasks.core.stage import OnlyWith, StageConfig
from hemaflow.tasks.inference.views import parse_views
from hemaflow.tasks.predict.config import IDENTITY, SPOILED, PredictConfig, Robustness

SEARCH = "search"
SEARCHED = OnlyWith("tta", (SEARCH,))


class EvaluateConfig(StageConfig):
    """All that changes the predictions and the metrics."""

    tta: str = "flips"
    """Views that predictions are averaged over: a preset (none, flips, dihedral, seed, wide), views separated
    by commas, or search, which finds those that help on val. Views that lose accuracy on val are not used."""
    tta_candidates: Annotated[str, SEARCHED] = "wide"
    """Views that the search may choose: a preset, or views separated by commas. Each takes one more pass over
    val and test, clean and under the heavy mix."""
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
    confident mistakes, without other views; 0 for none."""
    robustness: Robustness = "full"
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

    def passes(self) -> PredictConfig:
        """Return the config of predict: which passes of the network these options need."""
        views = parse_views(self.tta_candidates if self.tta == SEARCH else self.tta)
        return PredictConfig(
            views=tuple(dict.fromkeys((IDENTITY, *views))),
            batch_size=self.batch_size,
            robustness=self.robustness,
            robustness_images=self.robustness_images,
            robustness_seed=self.robustness_seed,
            num_explained=self.num_explained,
        )
