"""Config of ingest: everything that changes which images enter, and in which split."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from hemaflow.infra.settings import current_settings
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.stage import OnlyWith, StageConfig
from hemaflow.tasks.ingest.reference_set import (
    absolute,
    check_reference,
    reference_kinds,
    reference_sha256,
    result_key,
)
from hemaflow.tasks.sources.images import Fit

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class IngestConfig(StageConfig):
    """All that changes the data set."""

    image_size_pixels: Annotated[int, Field(ge=8, le=1024)] = 96
    """Every image is resized to this square: bicubic with antialiasing."""
    fit: Fit = "crop"
    """How an image that is not square becomes square: crop to its middle, pad with black, or stretch."""
    val_share: Share = 0.15
    """Share of the images in val, where the source has no split."""
    test_share: Annotated[Share, OnlyWith("num_folds", (0,))] = 0.15
    """Share of the images in test, where the source has no split and neither reference nor folds are set."""
    num_folds: Annotated[int, Field(ge=0, le=20)] = 0
    """Number of folds of a cross-validation; 0 for none. Folds of the source are used as they are."""
    fold: NonNegativeInt = 0
    """Number of the fold that is the test split, from 0."""
    reference: str = ""
    """Reference set that becomes the test split: a data source as for --data, or `ingest:KEY`, the test split
    of that result of ingest in the same store. Empty: the test split comes from --data."""
    seed: NonNegativeInt = 0
    """Random seed of the split or the folds, and of the order of the images."""
    contaminant_copies: Annotated[int, Field(ge=2)] = 20
    """Number of identical copies from which a picture counts as a contaminant and is dropped. Real duplicates
    come in twos and threes; the competition's contaminants came in hundreds."""
    near_duplicate_bits: Annotated[int, Field(ge=0, le=64)] = 40
    """Largest number of bits in which the 256-bit perceptual hashes of near duplicates differ. Near
    duplicates stay in one split.

    Measured on 11,959 real cells of 96 px: copies saved again as JPEG of quality 40 are at most 14 bits away,
    copies shifted by one pixel at most 38; of two photographs that are not one cell the nearest are 54 apart.
    """
    shard_bytes: PositiveInt = 32 << 20
    """Approximate size of a shard, in bytes."""

    @field_validator("reference")
    @classmethod
    def _known_form(cls, reference: str) -> str:
        return check_reference(reference)

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> IngestConfig:
        test_share, named = self.test_share, "test_share"
        if self.num_folds:
            test_share, named = 1.0 / self.num_folds, "a fold"
        if self.val_share + test_share >= 1.0:
            raise ValueError(
                f"val_share and {named} leave nothing to train on: together they must be below 1"
            )
        return self

    @model_validator(mode="after")
    def _one_fold_of_several(self) -> IngestConfig:
        if self.fold >= max(self.num_folds, 1):
            raise ValueError(
                f"there is no fold {self.fold}: with num_folds={self.num_folds}, "
                + (f"the last is {self.num_folds - 1}" if self.num_folds else "there are none")
            )
        if self.num_folds and self.reference:
            raise ValueError(
                "num_folds and reference exclude each other: the test split is a fold, or it is the reference"
            )
        return self

    def resolved(self, store: Store) -> ResolvedIngestConfig:
        """Return the config with the digest of its reference. Raises DataError where there is none."""
        looked_up: dict[str, str] = {}
        if self.reference:
            looked_up["reference"] = absolute(self.reference)
            looked_up["reference_sha256"] = reference_sha256(self.reference, current_settings())
        return ResolvedIngestConfig.model_validate(dict(self) | looked_up)


class ResolvedIngestConfig(IngestConfig):
    """A config with what was looked up of the reference that it names: what the stage works with."""

    reference_sha256: str = ""
    """SHA-256 of the content of the reference; empty where there is none."""

    def kinds_named(self) -> tuple[str, ...]:
        """Return the kind of the reference, where it is a data source. Raises DataError."""
        return reference_kinds(self.reference, current_settings())

    def key_document(self) -> dict[str, object]:
        """Return what enters the key: of a reference its content, not where it lies."""
        document = super().key_document()
        if not self.reference_sha256:
            del document["reference_sha256"]
        elif not result_key(self.reference):
            document["reference"] = "data"
        return document
