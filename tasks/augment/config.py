"""Config of augment: everything that changes the bytes of the training shards."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from hemaflow.tasks.core.stage import OnlyWith, StageConfig
from hemaflow.tasks.layers.keras_cv_table import LayerConfig

COPIED = OnlyWith("copies", words="copies above 0")


class AugmentConfig(StageConfig):
    """How the training split is augmented."""

    layers: Annotated[tuple[LayerConfig, ...], COPIED] = ()
    """Layers of keras-cv, applied one after another to each copy."""
    copies: int = Field(default=0, ge=0)
    """Number of augmented copies of each image."""
    keep_original: bool = True
    """Whether the unchanged image is kept, in addition to its copies."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the augmentation and of the order of the records."""
    shard_bytes: int = Field(default=32 << 20, ge=1 << 10)
    """Largest size of a shard, in bytes; a worker's memory grows with it."""
    batch_size: Annotated[int, Field(ge=2), COPIED] = 64
    """Images in a batch of augmentation; CutMix, MixUp and similar layers mix within a batch."""

    @model_validator(mode="after")
    def _gives_records(self) -> Self:
        if not self.copies and not self.keep_original:
            raise ValueError("Expected copies of at least 1 where keep_original is false; received copies=0.")
        if self.copies and not self.layers:
            raise ValueError(
                f"Expected at least one layer for copies={self.copies}: they would be plain repeats."
            )
        return self

    @property
    def needs_libraries(self) -> bool:
        """See StageConfig: without copies the images are written as they are."""
        return self.copies > 0

    @property
    def records_per_image(self) -> int:
        """Number of records of each image."""
        return self.copies + self.keep_original
