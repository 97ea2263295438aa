"""The data that the report is rendered from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Explained:
    """One image, and where the model looked."""

    id: str
    image: NDArray[np.uint8]
    """uint8[H, W, 3] in 0..255."""
    heat: NDArray[np.float32]
    """float32[H, W] in 0..1: how much each place speaks for the class that was named; 0 where none does."""
    label: int
    predicted: int
    probability: float
    """What the model gave the class it named, in 0..1."""


@dataclass(frozen=True)
class Mistake:
    """One image that the model named wrong."""

    id: str
    split: str
    image: NDArray[np.uint8]
    """uint8[H, W, 3] in 0..255."""
    label: int
    predicted: int
    probability: float
    """What the model gave the class it named, in 0..1."""


class Spoiled(NamedTuple):
    """One spoiled image."""

    corruption: str
    """A name of MEDMNIST_C, at its worst; "" for the heavy mix."""
    image: NDArray[np.uint8]
    """uint8[H, W, 3] in 0..255."""
    label: int
    predicted: int


@dataclass(frozen=True)
class Examples:
    """Spoiled images to look at."""

    heavy: list[Spoiled] = field(default_factory=list)
    """Of each class the first image, under the heavy mix."""
    original: NDArray[np.uint8] | None = None
    """uint8[H, W, 3], the image that `corruptions` are made of."""
    corruptions: list[Spoiled] = field(default_factory=list)
    """It under each corruption of MedMNIST-C at its worst."""


@dataclass(frozen=True)
class ReportInputs:
    """All that a report tells; nothing in it may depend on when or where it was made."""

    source: str
    classes: list[str]
    class_counts: dict[str, list[int]]
    """Split → images of each class."""
    image_size_pixels: int
    configs: dict[str, dict[str, Any]]
    """Stage → its configuration."""
    keys: dict[str, str]
    """Stage → its key."""
    metrics: dict[str, Any]
    """The content of metrics.json; of the entries of spoiled images, those that were measured."""
    history: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    num_findings: dict[str, int]
    preview_png: bytes
    mistakes: list[Mistake]
    train_facts: dict[str, Any]
    tta: str
    """What was asked for: a preset of views, or search; "none" where there is no TTA."""
    examples: Examples = field(default_factory=Examples)
    explained: list[Explained] = field(default_factory=list)
    """In the order of the classes."""
