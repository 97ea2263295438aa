"""The table of what a model says of each image of a split: evaluate writes it, and what comes later reads it.

The columns are id, label, and for each class in label order prob_… of the image as it is, tta_… averaged over
the views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import StageError
from hemaflow.tasks.records.table import read_table, write_table


class Reported(NamedTuple):
    """What evaluate wrote of a split, plain or averaged over the views."""

    ids: list[str]
    labels: NDArray[np.int64]
    """[N], the true ones."""
    probabilities: NDArray[np.float64]
    """[N, C]."""

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
        ids: N of them.
        labels: [N], the true ones.
        plain: [N, C], probabilities of the image as it is.
        averaged: [N, C], averaged over the views.
    """
    numbers = range(plain.shape[1])
    header = ["id", "label", *(f"prob_{k}" for k in numbers), *(f"tta_{k}" for k in numbers)]
    rows = (
        [image_id, label, *(f"{value:.9g}" for value in (*plain[row], *averaged[row]))]
        for row, (image_id, label) in enumerate(zip(ids, labels.tolist(), strict=True))
    )
    return write_table([header, *rows])


def read_predictions(data: bytes, num_classes: int, *, tta: bool) -> Reported:
    """Return what `write_predictions` wrote: of the image as it is, or averaged over the views.

    Raises:
        StageError: It is no such table, or of other classes.
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
