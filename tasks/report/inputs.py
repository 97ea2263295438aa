"""The data that the report is rendered from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.facts import Split, TrainFacts
from hemaflow.tasks.core.history import EpochRow
from hemaflow.tasks.core.run_metrics import RunMetrics
from hemaflow.tasks.evaluate.metrics import MetricText
from hemaflow.tasks.evaluate.mistakes import Mistake
from hemaflow.tasks.predict.pictures import Examples, Explained
from hemaflow.tasks.sources.base import Finding


@dataclass(frozen=True)
class ReportInputs:
    """The content of a report, but for the run that it is about (`tasks/report/run_details.py`).

    Nothing in it may depend on when or where it was made.
    """

    source: str
    classes: list[str]
    class_counts: Mapping[Split, list[int]]
    """Split → number of images of each class."""
    image_size_pixels: int
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
