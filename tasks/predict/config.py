"""Config of predict: which passes of the network run over the val and test images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import NonNegativeInt, PositiveInt

from hemaflow.tasks.core.stage import OnlyWith, StageConfig

IDENTITY = "identity"
"""The view that is the unchanged image."""
Robustness = Literal["none", "heavy_mix", "full"]
SPOILED = OnlyWith("robustness", ("heavy_mix", "full"))


class PredictConfig(StageConfig):
    """All that changes the probabilities. It is made from the section `evaluate` of a config."""

    views: tuple[str, ...] = (IDENTITY,)
    """Views to predict, the unchanged image first, each once."""
    batch_size: PositiveInt = 256
    """Number of images at once on the device."""
    robustness: Robustness = "full"
    """Spoiled images to predict: none, the heavy mix, or (full) the heavy mix and the corruptions of
    MedMNIST-C."""
    robustness_images: Annotated[NonNegativeInt, SPOILED] = 0
    """Number of images of each split to spoil, drawn at random; 0 for all."""
    robustness_seed: Annotated[NonNegativeInt, SPOILED] = 0
    """Random seed of that draw, of the heavy mix and of the corruptions."""
    num_explained: NonNegativeInt = 3
    """Number of images of each class to explain by Grad-CAM."""
