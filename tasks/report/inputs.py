"""The data that the report is rendered from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.facts import Split, TrainFacts
from hemaflow.tasks.core.history import EpochRow
from hemaflow.tasks.core.run_metrics import RunMetrics
from hemaflow.tasks.sources.base import Finding


class MetricText(NamedTuple):
    """How pages show a scalar metric."""

    title: str
    meaning: str
    """What the metric says, in a few words."""
    percent: bool = False
    """Whether it is shown in percent."""


@dataclass(frozen=True)
class Explained:
    """One image with its Grad-CAM map."""

    id: str
    image: NDArray[np.uint8]
    """uint8[H, W, 3] in 0..255."""
    heat: NDArray[np.float32]
    """float32[H, W] in 0..1: how much each place supports the predicted class."""
    label: int
    predicted: int
    probability: float
    """Probability of the predicted class, in 0..1."""


@dataclass(frozen=True)
class Mistake:
    """One image that the model predicts wrong."""

    id: str
    split: str
    image: NDArray[np.uint8]
    """uint8[H, W, 3] in 0..255."""
    label: int
    predicted: int
    probability: float
    """Probability of the predicted class, in 0..1."""


class Spoiled(NamedTuple):
    """One spoiled image."""

    corruption: str
    """A name of MEDMNIST_C, at severity 5; "" for the heavy mix."""
    image: NDArray[np.uint8]
    """uint8[H, W, 3] in 0..255."""
    label: int
    predicted: int


@dataclass(frozen=True)
class Examples:
    """Spoiled images to show."""

    heavy_mix: list[Spoiled] = field(default_factory=list)
    """The first image of each class under the heavy mix."""
    original: NDArray[np.uint8] | None = None
    """uint8[H, W, 3], the image that is corrupted."""
    corruptions: list[Spoiled] = field(default_factory=list)
    """That image under each corruption of MedMNIST-C at severity 5."""


@dataclass(frozen=True)
class ReportInputs:
    """The content of a report; nothing in it may depend on when or where it was made."""

    source: str
    classes: list[str]
    class_counts: Mapping[Split, list[int]]
    """Split → number of images of each class."""
    image_size_pixels: int
    configs: Mapping[str, Mapping[str, object]]
    """Stage → its config."""
    keys: dict[str, str]
    """Stage → its key."""
    metrics: RunMetrics
    metric_texts: Mapping[str, MetricText]
    """Scalar metric → how to show it, in the order of the table."""
    history: list[EpochRow]
    findings: list[Finding]
    num_findings: Mapping[str, int]
    """Kind of finding → number of images it concerns."""
    preview_png: bytes
    mistakes: list[Mistake]
    train_facts: TrainFacts
    tta: str
    """The requested preset of views, or `search`; `none` without TTA."""
    examples: Examples = field(default_factory=Examples)
    finding_pictures: Mapping[str, Mapping[str, NDArray[np.uint8]]] = field(default_factory=dict)
    """Kind of finding → name of a picture → uint8[H, W, 3]: a few of each kind."""
    explained: list[Explained] = field(default_factory=list)
    """The images to explain, in the order of the classes."""
