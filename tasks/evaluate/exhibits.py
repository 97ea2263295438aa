"""Single images that the report shows: the most confident mistakes, and Grad-CAM maps.

Reads the shards of ingest again, batch by batch, and holds only the images to show. Reuses the predictions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.evaluate.grad_cam import grad_cam
from hemaflow.tasks.evaluate.metrics import Labels, Probabilities
from hemaflow.tasks.inference.classifier import split_batches
from hemaflow.tasks.report.inputs import Explained, Mistake

if TYPE_CHECKING:
    import keras


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


def explain(
    parents: Parents, model: keras.Model, judged: Judged, most: int, batch_size: int
) -> list[Explained]:
    """Return Grad-CAM maps class by class, of one right image and the most confident mistakes.

    Args:
        parents: Holds `ingest`.
        model: The classifier; see `hemaflow.tasks.evaluate.grad_cam.grad_cam`.
        judged: Its predictions for the split.
        most: Maximum number of images of each class; 0 for none.
        batch_size: Number of images read at once.
    """
    rows = choose_cases(judged.labels, judged.probabilities, most)
    if not rows:
        return []
    images = read_images(parents, judged.split, rows, batch_size)
    named = judged.probabilities.argmax(1)
    maps = grad_cam(model, np.stack([images[row] for row in rows]), named[rows].tolist())
    return [
        Explained(
            judged.ids[row],
            images[row],
            heat,
            int(judged.labels[row]),
            int(named[row]),
            float(judged.probabilities[row].max()),
        )
        for row, heat in zip(rows, maps, strict=True)
    ]


def choose_cases(labels: Labels, probabilities: Probabilities, most: int) -> list[int]:
    """Return rows to explain, class by class: the most confident right one, then mistakes by confidence.

    Args:
        labels: int[N].
        probabilities: float[N, C].
        most: Maximum number of each class; 0 for none.
    """
    named, certainty = probabilities.argmax(1), probabilities.max(1)
    rows: list[int] = []
    for label in range(probabilities.shape[1]):
        own = np.flatnonzero(labels == label)
        ordered = own[np.argsort(-certainty[own], kind="stable")]
        right, wrong = (ordered[(named[ordered] == label) == is_right] for is_right in (True, False))
        rows += [*right[:1].tolist(), *wrong.tolist()][:most]
    return rows


def read_images(
    parents: Parents, split: str, rows: Iterable[int], batch_size: int
) -> dict[int, NDArray[np.uint8]]:
    """Return some images of a split: row → uint8[H, W, 3]."""
    wanted = sorted(set(rows))
    images: dict[int, NDArray[np.uint8]] = {}
    start = 0
    for batch in split_batches(parents, parents["ingest"], split, batch_size) if wanted else ():
        stop = start + len(batch.ids)
        images |= {row: batch.images[row - start].copy() for row in wanted if start <= row < stop}
        if len(images) == len(wanted):
            break
        start = stop
    return images
