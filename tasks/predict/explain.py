"""Explains single images by Grad-CAM: of each class a right one, and the most confident mistakes.

What is right and what is a mistake is told by the unchanged image alone: a map is of that image, and shows
what supports the class that the model names in it. So the maps depend on no view, no metric and no choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.inference.classifier import read_images
from hemaflow.tasks.predict.config import PredictConfig
from hemaflow.tasks.predict.grad_cam import grad_cam
from hemaflow.tasks.predict.pictures import Explained
from hemaflow.tasks.predict.probabilities import SplitPredictions

if TYPE_CHECKING:
    import keras


def explain(
    parents: Parents, model: keras.Model, predicted: SplitPredictions, config: PredictConfig
) -> list[Explained]:
    """Return Grad-CAM maps class by class, of one right image and the most confident mistakes.

    Args:
        parents: Holds `ingest`.
        model: The classifier; see `hemaflow.tasks.predict.grad_cam.grad_cam`.
        predicted: Its predictions for the split.
        config: How many images of each class, and how many are read at once.
    """
    probabilities = predicted.unchanged
    rows = choose_cases(predicted.labels, probabilities, config.num_explained)
    if not rows:
        return []
    images = read_images(parents, predicted.split, rows, config.batch_size)
    named = probabilities.argmax(1)
    maps = grad_cam(model, np.stack([images[row] for row in rows]), named[rows].tolist())
    return [
        Explained(
            predicted.ids[row],
            images[row],
            heat,
            int(predicted.labels[row]),
            int(named[row]),
            float(probabilities[row].max()),
        )
        for row, heat in zip(rows, maps, strict=True)
    ]


def choose_cases(labels: NDArray[np.int64], probabilities: NDArray[np.float32], most: int) -> list[int]:
    """Return rows to explain, class by class: the most confident right one, then mistakes by confidence.

    Args:
        labels: int64[N].
        probabilities: float32[N, C].
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
