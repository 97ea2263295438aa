"""The results of a review as typed models: what verdict.json, drift.json and label-errors.csv contain.

verdict = Verdict.model_validate_json(text)
verdict.promote, verdict.accuracy.difference
"""

from __future__ import annotations

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue

from hemaflow.tasks.core.facts import Facts


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    def document(self) -> dict[str, JsonValue]:
        """Return it as JSON values."""
        document: dict[str, JsonValue] = self.model_dump(mode="json", by_alias=True)
        return document


class Rule(_Model):
    """The numbers by which a challenger is judged; see `JudgeConfig`."""

    delta: float
    """Accuracy that may be lost."""
    epsilon: float
    """Recall that one class may lose."""
    min_class_images: int
    """Minimum number of reference images of a class that is judged by its recall."""


class AccuracyComparison(_Model):
    """The accuracies of both models on the reference images, in 0..1."""

    champion: float
    challenger: float
    difference: float
    """Challenger − champion."""
    interval: tuple[float, float]
    """95 % interval of the difference."""
    method: str
    """How the interval was computed."""


class McNemar(_Model):
    """McNemar's exact test of the two models."""

    only_challenger: int
    """Images that only the challenger predicts right."""
    only_champion: int
    """Images that only the champion predicts right."""
    p: float
    """Two-sided p value."""


class ClassComparison(_Model):
    """The recalls of both models for one class."""

    name: str = Field(validation_alias=AliasChoices("class", "name"), serialization_alias="class")
    """The class."""
    num_images: int
    """Reference images of the class."""
    champion_right: int
    """Images that the champion predicts right."""
    challenger_right: int
    """Images that the challenger predicts right."""
    difference: float
    """Recall of the challenger − recall of the champion."""
    judged: bool
    """Whether the class has enough images to be judged by its recall."""


class WorstClass(_Model):
    """The class with the largest loss of recall among those judged."""

    name: str = Field(validation_alias=AliasChoices("class", "name"), serialization_alias="class")
    """The class."""
    difference: float
    """Recall of the challenger − recall of the champion."""
    num_images: int
    """Reference images of the class."""


class JudgedModel(_Model):
    """One of the two models."""

    sha256: str
    """SHA-256 of model.keras."""
    image_size_pixels: int
    """Height and width of the images that it takes."""
    views: list[str]
    """The views that its predictions are averaged over."""


class Verdict(_Model):
    """Whether a challenger is promoted, and all numbers behind the decision: verdict.json."""

    promote: bool
    """The decision."""
    reason: str
    """The decision in words."""
    rule: Rule
    """The rule that was applied."""
    num_images: int
    """Number of reference images."""
    accuracy: AccuracyComparison
    """The accuracies."""
    mcnemar: McNemar
    """McNemar's test; it decides nothing."""
    per_class: list[ClassComparison]
    """The classes, in label order."""
    worst_class: WorstClass | None
    """The class that loses most; None where no class has enough images."""
    notes: list[str]
    """What else a reader must know."""
    models: dict[str, JudgedModel] = Field(default_factory=dict)
    """`champion` and `challenger` → the model."""


class VerdictFacts(Facts):
    """A verdict without its details."""

    promote: bool
    """The decision."""
    reason: str
    """The decision in words."""
    rule: dict[str, float]
    """The rule that was applied."""
    num_images: int
    """Number of reference images."""
    accuracy: dict[str, JsonValue]
    """The accuracies, as in verdict.json."""
    worst_class: dict[str, JsonValue] | None
    """The class that loses most, as in verdict.json."""
    notes: list[str]
    """What else a reader must know."""


class DriftRow(_Model):
    """One test of two sets of images."""

    name: str
    """What was compared."""
    test: str
    """The statistical test."""
    statistic: float
    """Its statistic."""
    effect: float
    """Size of the effect, in 0..1."""
    min_effect: float = 0.0
    """Smallest effect that counts as drift."""
    p: float = 1.0
    """p value of this test alone."""
    before: float | dict[str, float] = 0.0
    """Median, or class → share, of the champion's images."""
    now: float | dict[str, float] = 0.0
    """Median, or class → share, of the new images."""
    p_corrected: float
    """p value corrected for all rows together (Holm)."""
    drifted: bool
    """Whether the difference is significant and large."""


class DriftFacts(Facts):
    """A drift report without its rows."""

    num_new_images: int
    """Number of new images."""
    tested: bool
    """Whether there were enough images to test."""
    drifted: list[str]
    """Names of the comparisons that drifted."""
    notes: list[str]
    """What else a reader must know."""


class Drift(_Model):
    """How new images differ from those that the champion was trained on: drift.json."""

    num_new_images: int
    """Number of new images."""
    tested: bool = True
    """Whether there were enough images to test."""
    drifted: list[str]
    """Names of the comparisons that drifted."""
    notes: list[str]
    """What else a reader must know."""
    correction: str = "Holm"
    """How the p values are corrected."""
    alpha: float = 0.0
    """Significance level."""
    rows: list[DriftRow]
    """The comparisons; none where nothing was tested."""


class LabelErrorsFacts(Facts):
    """What is known about a search for label errors without its files."""

    classes: list[str]
    """The names of labels 0, 1, …"""
    num_folds: int
    """Number of folds."""
    num_images: int
    """Number of images in all folds."""
    num_candidates: int
    """Number of images whose label may be wrong."""
    conflicts: list[list[str]]
    """Groups of images that are one picture under several labels."""


class CandidateRow(_Model):
    """One row of label-errors.csv: an image whose label may be wrong."""

    rank: int
    """1 for the most likely error."""
    id: str
    """The image."""
    given: str
    """Its label."""
    suggested: str
    """The class that the model predicts."""
    score: float
    """In 0..1; the lower, the more likely an error."""
    fold: int
    """The fold in whose test split the image is."""
    probabilities: dict[str, float]
    """Class → its probability."""
