"""Metrics under the corruptions of MedMNIST-C (arXiv:2406.17536)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.run_metrics import ClassScores, CorruptionScores, SplitMetrics
from hemaflow.tasks.evaluate import metrics
from hemaflow.tasks.predict.medmnist_c import ALEXNET_BALANCED_ERROR, MEDMNIST_C


def evaluate_medmnist_c(
    labels: NDArray[np.int64],
    named: NDArray[np.int64],
    classes: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> SplitMetrics:
    """Return the metrics under MedMNIST-C; only `num_examples` without images.

    Accuracies and recalls are means over all corruptions and severities. The interval of the accuracy is a
    bootstrap over the images, each with all its corruptions.

    Args:
        labels: int64[N].
        named: int64[11, 5, N], the class predicted under each corruption (in MEDMNIST_C's order) and
            severity.
        classes: Names of the labels.
        resamples: Number of bootstrap resamples of the interval.
        seed: Random seed of the bootstrap.
    """
    if not len(labels):
        return SplitMetrics(num_examples=0)
    right = named == labels
    support = np.bincount(labels, minlength=len(classes))
    found = np.stack([right[:, :, labels == k].sum(2) for k in range(len(classes))], axis=2)
    present = support > 0
    recall = found[:, :, present] / support[present]  # float64[11, 5, classes present]
    accuracy, balanced = right.mean(2), recall.mean(2)
    errors = 1 - balanced.mean(1)
    ratios = errors / np.array([ALEXNET_BALANCED_ERROR[name] for name in MEDMNIST_C])
    recalls = found.mean((0, 1)) / np.maximum(support, 1)
    return SplitMetrics(
        accuracy=float(accuracy.mean()),
        balanced_accuracy=float(balanced.mean()),
        intervals={"accuracy": metrics.mean_interval(right.mean((0, 1)), resamples=resamples, seed=seed)},
        balanced_error=float(errors.mean()),
        balanced_error_to_alexnet=float(ratios.mean()),
        corruptions=[
            CorruptionScores(
                corruption=name,
                accuracy=accuracy[number].tolist(),
                balanced_accuracy=balanced[number].tolist(),
                balanced_error=float(errors[number]),
                balanced_error_to_alexnet=float(ratios[number]),
            )
            for number, name in enumerate(MEDMNIST_C)
        ],
        worst_corruption=list(MEDMNIST_C)[int(errors.argmax())],
        per_class=[
            ClassScores(name=name, recall=float(recalls[k]), support=int(support[k]))
            for k, name in enumerate(classes)
        ],
        worst_class=classes[int(np.where(present, recalls, np.inf).argmin())],
        num_examples=len(labels),
    )
