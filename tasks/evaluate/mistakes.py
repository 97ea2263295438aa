"""The most confident mistakes of a split, with their pictures, which evaluate keeps for the report.

`mistakes.npz` holds the ids, uint8[K, H, W, 3], the labels with what was predicted, and the probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.inference.calibration import Labels, Probabilities
from hemaflow.tasks.inference.classifier import read_images
from hemaflow.tasks.records.arrays import read_arrays, write_arrays

NAME = "mistakes.npz"


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


class Judged(NamedTuple):
    """The predictions of a model for a split."""

    split: str
    ids: list[str]
    labels: Labels
    """int[N]."""
    probabilities: Probabilities
    """float[N, C]."""


def find_mistakes(parents: Parents, judged: Judged, most: int, batch_size: int) -> list[Mistake]:
    """Return the most confident mistakes of a split, the most confident first.

    Reads the shards of ingest, batch by batch, and holds only the images to show.

    Args:
        parents: Holds `ingest`.
        judged: The predictions for the split.
        most: Maximum number of mistakes.
        batch_size: Number of images read at once.
    """
    named, certainty = judged.probabilities.argmax(1), judged.probabilities.max(1)
    wrong = np.flatnonzero(named != judged.labels)
    rows = wrong[np.argsort(-certainty[wrong], kind="stable")][:most].tolist()
    images = read_images(parents, judged.split, rows, batch_size)
    return [
        Mistake(
            judged.ids[row],
            judged.split,
            images[row],
            int(judged.labels[row]),
            int(named[row]),
            float(certainty[row]),
        )
        for row in rows
    ]


def write_mistakes(mistakes: Sequence[Mistake]) -> bytes:
    """Return mistakes as `read_mistakes` takes them."""
    return write_arrays(
        {
            "names": np.array([(mistake.id, mistake.split) for mistake in mistakes], np.str_),
            "images": np.array([mistake.image for mistake in mistakes], np.uint8),
            "labels": np.array([(mistake.label, mistake.predicted) for mistake in mistakes], np.int64),
            "probabilities": np.array([mistake.probability for mistake in mistakes], np.float64),
        }
    )


def read_mistakes(store: Store, evaluated: Manifest) -> list[Mistake]:
    """Return the mistakes that a result of evaluate holds."""
    arrays = read_arrays(evaluated.read(store, NAME))
    return [
        Mistake(str(image_id), str(split), image, int(label), int(predicted), float(probability))
        for (image_id, split), image, (label, predicted), probability in zip(
            arrays["names"], arrays["images"], arrays["labels"], arrays["probabilities"], strict=True
        )
    ]
