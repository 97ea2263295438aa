"""Facts: the small values that a stage records in its manifest for later stages, as typed models.

`IngestFacts.of(manifest)` reads them, `IngestFacts(…).commit(draft)` writes them and completes the result.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_serializer

from hemaflow.infra.errors import StoreError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.run_metrics import RunMetrics

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Facts(BaseModel):
    """The facts of one stage result; all of them enter the digest that later keys are made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the facts of a complete result.

        Raises:
            StoreError: Another version of hemaflow wrote the manifest.
        """
        try:
            return cls.model_validate(manifest.facts)
        except ValidationError as error:
            first = error.errors()[0]
            raise StoreError(
                f"The facts of this {manifest.stage} result were written by another version of hemaflow.",
                expected=f"the facts of {cls.__name__}",
                received=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
                where=f"stages/{manifest.stage}/{manifest.key}",
                remedy=f"Compute the stage again with --from {manifest.stage}, or use that version.",
            ) from error

    def commit(self, draft: Draft) -> Manifest:
        """Complete a result with these facts."""
        return draft.commit(**self.model_dump(mode="json"))


class IngestFacts(Facts):
    """What later stages know about the images without reading them."""

    classes: list[str]
    """The names of labels 0, 1, …"""
    image_size_pixels: int
    """Height and width of every image."""
    num_examples: dict[Split, int]
    """Split → number of images."""
    class_counts: dict[Split, list[int]]
    """Split → number of images of each class, in label order."""
    source: str
    """The name of the data source."""
    num_findings: dict[str, int]
    """Kind of finding → number of images it concerns."""
    reference: str = ""
    """SHA-256 of the reference set that the test split is; empty where there is none."""


class AugmentFacts(Facts):
    """What training knows about the shards without reading them."""

    num_examples: int
    """Records in all shards, copies included."""
    num_shards: int
    """Number of shards."""
    image_size_pixels: int
    """Height and width of every image."""
    classes: list[str]
    """The names of labels 0, 1, …"""


class TrainFacts(Facts):
    """How a model came about."""

    epochs: int
    """Epochs trained, over both phases."""
    num_parameters: int
    """Weights of the model, trainable or not."""
    image_size_pixels: int
    """Height and width of the images that the model takes."""
    classes: list[str]
    """The names of the model's outputs 0, 1, …"""
    backbone: str
    """The backbone, or `ensemble`."""
    optimizer_steps: int
    """Optimizer steps, over all interruptions."""
    best_epoch: int
    """The epoch whose weights were kept, counted from 1; 0 for an ensemble."""
    best_val_accuracy: float | None
    """Validation accuracy of the weights that were kept; None without validation images."""
    averaged_epochs: int = 0
    """Number of epochs whose weights were averaged; 0 where none were."""
    trained_on: list[str] = Field(validation_alias=AliasChoices("trained_on", "learnt_from"))
    """Digests of the ingest results whose training images shaped the weights, this one's first."""
    data_overlap: dict[str, int | None] = Field(
        validation_alias=AliasChoices("data_overlap", "already_learnt")
    )
    """Split → images that the models this one builds on were trained on; None where it cannot be known."""


class PredictFacts(Facts):
    """Which probabilities of a model there are."""

    views: list[str]
    """The views that were predicted, the unchanged image first."""
    shown_split: Split
    """The split that the report is about: test, or val where test is empty."""


class ViewsFacts(Facts):
    """The views of a model: of the facts of evaluate, those that a submission is made from."""

    model_config = ConfigDict(extra="ignore")

    tta_reason: str
    """Why the views that were asked for are not used; empty where they are."""
    tta_views: list[str]
    """The views whose probabilities are averaged."""


class EvaluateFacts(ViewsFacts):
    """How good a model is."""

    model_config = ConfigDict(extra="forbid")

    metrics: RunMetrics
    """The metrics without their details per class, corruption and bin."""
    tta: str
    """The preset of views that was asked for, or `search`."""

    @field_serializer("metrics")
    def _as_in_metrics_json(self, metrics: RunMetrics) -> dict[str, JsonValue]:
        return metrics.document()


class SubmitFacts(Facts):
    """What is known about a submission."""

    size_bytes: int
    """Size of the zip."""
    num_verified: int
    """Images on which the unpacked submission gave the reported labels."""
    accuracy: float | None
    """Accuracy of the submission on those images; None without any."""
    tta: list[str]
    """The views that the submission averages over."""
    views_reason: str
    """Why it averages over no other views; empty where it uses those asked for."""
