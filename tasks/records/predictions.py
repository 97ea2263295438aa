"""The table of a model's probabilities for each image of a split: evaluate writes it, later stages read it.

The columns are id, label, and for each class, in label order, prob_… (the unchanged image) and tta_…
(averaged over the views).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import StageError
from hemaflow.tasks.records.table import read_table, write_table


class Reported(NamedTuple):
    """A model's probabilities for a split, of unchanged images or averaged over the views."""

    ids: list[str]
    labels: NDArray[np.int64]
    """int64[N], the true labels."""
    probabilities: NDArray[np.float64]
    """float64[N, C] in 0..1."""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The label that each image is given, int64[N]."""
        labels: NDArray[np.int64] = self.probabilities.argmax(1).astype(np.int64)
        return labels


def write_predictions(
    ids: Sequence[str],
    labels: NDArray[np.int64],
    plain: NDArray[np.float32],
    averaged: NDArray[np.float32],
) -> bytes:
    """Return predictions as CSV; nine digits give every float32 back exactly.

    Args:
        ids: The ids of N images.
        labels: int64[N], the true labels.
        plain: float32[N, C], probabilities of the unchanged images.
        averaged: float32[N, C], probabilities averaged over the views.
    """
    numbers = range(plain.shape[1])
    header = ["id", "label", *(f"prob_{k}" for k in numbers), *(f"tta_{k}" for k in numbers)]
    rows = (
        [image_id, label, *(f"{value:.9g}" for value in (*plain[row], *averaged[row]))]
        for row, (image_id, label) in enumerate(zip(ids, labels.tolist(), strict=True))
    )
    return write_table([header, *rows])


def read_predictions(data: bytes, num_classes: int, *, tta: bool) -> Reported:
    """Return the predictions of `write_predictions`, of unchanged images or averaged over the views (`tta`).

    Raises:
        StageError: The table has another form, or another number of classes.
    """
    header, *rows = read_table(data)
    prefix = "tta_" if tta else "prob_"
    columns = [column for column, name in enumerate(header) if name.startswith(prefix)]
    if header[:2] != ["id", "label"] or len(columns) != num_classes:
        raise StageError(
            "The predictions of evaluate are not of the form expected.",
            expected=f"id, label and {num_classes} columns {prefix}…",
            received=", ".join(header),
            remedy="Run with --from evaluate.",
        )
    return Reported(
        [row[0] for row in rows],
        np.array([int(row[1]) for row in rows], np.int64),
        np.array([[float(row[c]) for c in columns] for row in rows]).reshape(-1, num_classes),
    )
