"""The metrics of a run as typed models: what evaluate writes to metrics.json and everybody else reads.

    metrics = RunMetrics.model_validate_json(text)
    metrics.test_tta.accuracy, metrics.test_tta.intervals["accuracy"]

All accuracies, recalls and errors are shares in 0..1; intervals are 95 % bootstrap intervals. What only
another version of hemaflow knows is ignored, so that its runs can be shown.
"""

from __future__ import annotations

from typing import Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue, field_validator

DETAILS = {"per_class", "confusion", "reliability", "corruptions"}
"""Fields of an entry that are in metrics.json alone."""
FORMER_CONDITIONS = {"heavy": "heavy_mix"}
"""What an earlier version called the conditions of the search for views → their names."""


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, use_attribute_docstrings=True
    )


class ClassScores(_Model):
    """The scores of one class."""

    name: str = Field(validation_alias=AliasChoices("class", "name"), serialization_alias="class")
    """The class."""
    support: int
    """Number of images of the class."""
    recall: float
    """Share of the class's images that were named right."""
    precision: float | None = None
    """Share of the images named as the class that are of it; None under MedMNIST-C."""
    f1: float | None = None
    """Harmonic mean of precision and recall; None under MedMNIST-C."""


class Reliability(_Model):
    """Bins of equal width of the top probability (arXiv:1706.04599); empty bins are 0."""

    confidence: list[float]
    """Mean top probability of each bin."""
    accuracy: list[float]
    """Accuracy in each bin."""
    count: list[int]
    """Images in each bin."""


class Flips(_Model):
    """What test-time augmentation changed, in images."""

    to_right: int
    """Wrong before, right after."""
    to_wrong: int
    """Right before, wrong after."""
    changed_wrong: int
    """From one wrong class to another."""


class CorruptionScores(_Model):
    """The scores under one corruption of MedMNIST-C."""

    corruption: str
    """The corruption."""
    accuracy: list[float]
    """Accuracy at severities 1 to 5."""
    balanced_accuracy: list[float]
    """Mean recall of the classes at severities 1 to 5."""
    balanced_error: float
    """Mean over the severities of 1 − balanced accuracy."""
    balanced_error_to_alexnet: float
    """That over AlexNet's, which the paper calls BE (arXiv:2406.17536)."""


class SplitMetrics(_Model):
    """The metrics of one split under one condition; without images, only `num_examples` is set.

    Scalar metrics that are registered in evaluate and have no field here are kept too; see `score`.
    """

    model_config = ConfigDict(extra="allow")

    num_examples: int
    """Number of images."""
    accuracy: float | None = None
    """Share of images that were named right."""
    balanced_accuracy: float | None = None
    """Mean recall of the classes present."""
    macro_f1: float | None = None
    """Mean F1 of the classes present or predicted."""
    macro_auc: float | None = None
    """Mean one-vs-rest area under the ROC curve of the classes present."""
    nll: float | None = None
    """Mean negative log-likelihood, in nats."""
    ece: float | None = None
    """Expected calibration error (arXiv:1706.04599)."""
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Metric → its 95 % interval."""
    per_class: list[ClassScores] = Field(default_factory=list)
    """The scores of each class, in label order."""
    confusion: list[list[int]] = Field(default_factory=list)
    """Rows: true classes. Columns: predicted classes."""
    reliability: Reliability | None = None
    """The reliability diagram."""
    flips: Flips | None = None
    """What test-time augmentation changed; None without it."""
    corruptions: list[CorruptionScores] = Field(default_factory=list)
    """MedMNIST-C only: the scores under each corruption."""
    balanced_error: float | None = None
    """MedMNIST-C only: mean balanced error."""
    balanced_error_to_alexnet: float | None = None
    """MedMNIST-C only: mean balanced error over AlexNet's."""
    worst_corruption: str = ""
    """MedMNIST-C only: the corruption with the largest balanced error."""
    worst_class: str = ""
    """MedMNIST-C only: the class with the least recall."""

    def score(self, name: str) -> float | None:
        """Return a scalar metric by its name; None where it was not measured."""
        value = getattr(self, name, None)
        return float(value) if isinstance(value, int | float) else None


class ViewStep(_Model):
    """One step of the search for views."""

    view: str
    """The view that was added."""
    accuracy: dict[str, float]
    """Condition (`clean`, `heavy_mix`) → validation accuracy with all views so far."""

    @field_validator("accuracy")
    @classmethod
    def _rename_conditions(cls, accuracy: dict[str, float]) -> dict[str, float]:
        return {FORMER_CONDITIONS.get(name, name): value for name, value in accuracy.items()}


class ViewChoice(_Model):
    """How the views of test-time augmentation were chosen on the validation split."""

    asked: str
    """The preset that was asked for, or `search`."""
    views: list[str]
    """The views that are averaged over."""
    steps: list[ViewStep]
    """The path of the search, the unchanged image first."""
    gain: float
    """Accuracy gained at the end of the path, over all conditions."""
    interval: tuple[float, float]
    """95 % interval of the gain."""
    reason: str
    """Why the path was not kept; empty where it was."""
    times_slower: int
    """Predictions per image."""


class RunMetrics(_Model):
    """All metrics of a run; an entry that was not measured is None.

    Entries that an earlier version of hemaflow called otherwise (`test_heavy`) are read under their names.
    """

    val: SplitMetrics | None = None
    """Validation split, unchanged images."""
    val_tta: SplitMetrics | None = None
    """Validation split, averaged over the views."""
    val_heavy_mix: SplitMetrics | None = Field(
        None, validation_alias=AliasChoices("val_heavy_mix", "val_heavy")
    )
    """Validation split under the heavy mix."""
    val_heavy_mix_tta: SplitMetrics | None = Field(
        None, validation_alias=AliasChoices("val_heavy_mix_tta", "val_heavy_tta")
    )
    """Validation split under the heavy mix, averaged over the views."""
    val_medmnistc: SplitMetrics | None = None
    """Validation split under MedMNIST-C."""
    test: SplitMetrics | None = None
    """Test split, unchanged images."""
    test_tta: SplitMetrics | None = None
    """Test split, averaged over the views: the accuracy of the submission."""
    test_heavy_mix: SplitMetrics | None = Field(
        None, validation_alias=AliasChoices("test_heavy_mix", "test_heavy")
    )
    """Test split under the heavy mix."""
    test_heavy_mix_tta: SplitMetrics | None = Field(
        None, validation_alias=AliasChoices("test_heavy_mix_tta", "test_heavy_tta")
    )
    """Test split under the heavy mix, averaged over the views."""
    test_medmnistc: SplitMetrics | None = None
    """Test split under MedMNIST-C."""
    tta: ViewChoice | None = None
    """How the views were chosen."""
    data_overlap: dict[str, int | None] = Field(
        default_factory=dict, validation_alias=AliasChoices("data_overlap", "already_learnt")
    )
    """Split → images that the models this one builds on were trained on; None where it cannot be known."""

    def entry(self, name: str) -> SplitMetrics | None:
        """Return the entry with a name such as `test_heavy_mix_tta`; None where it was not measured."""
        found = getattr(self, name, None)
        return found if isinstance(found, SplitMetrics) else None

    def measured(self) -> dict[str, SplitMetrics]:
        """Return the entries that were measured on at least one image, by name."""
        found = {name: self.entry(name) for name in type(self).model_fields}
        return {name: entry for name, entry in found.items() if entry and entry.num_examples}

    def document(self) -> dict[str, JsonValue]:
        """Return what was measured as JSON values, as metrics.json holds it."""
        document: dict[str, JsonValue] = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return document

    def summary(self) -> Self:
        """Return the metrics without the details of each entry and without the choice of views."""
        details = {name: DETAILS for name in type(self).model_fields if self.entry(name)}
        kept = self.model_dump(exclude_unset=True, exclude={"tta": True, **details})
        return type(self).model_validate(kept)
