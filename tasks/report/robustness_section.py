"""The part of the report about spoiled images: scores, tables and sentences, ready to print.

Reads the entries heavy_mix, heavy_mix_tta and medmnistc of the metrics; `tasks/report/report.py` renders it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hemaflow.tasks.core.run_metrics import RunMetrics, SplitMetrics


class Score(NamedTuple):
    """An accuracy under one condition."""

    name: str
    meaning: str
    accuracy: float
    interval: tuple[float, float]
    lost: float
    """Accuracy lost relative to clean images."""


class Measured(NamedTuple):
    """An entry of the metrics under the name that the report gives it."""

    name: str
    meaning: str
    entry: SplitMetrics


class Heat(NamedTuple):
    """One accuracy of the table and its colour."""

    value: float
    shade: float
    """Opacity in 0..1; the worse, the higher."""
    kind: str


class CorruptionRow(NamedTuple):
    """The scores under one corruption, ready to print."""

    name: str
    cells: list[Heat]
    """The accuracy at severities 1 to 5."""
    mean: Heat
    balanced_error: float
    to_alexnet: float
    worst: bool


def scores(metrics: RunMetrics, split: str, suffix: str) -> list[Score]:
    """Return the accuracies on clean, heavy-mix and corrupted images, as far as they were measured.

    Args:
        metrics: The metrics of the run.
        split: val or test.
        suffix: "_tta" for predictions averaged over the views, "" for the unchanged images.
    """
    measured = _measured(metrics, split, suffix)
    accuracies = [each.entry.accuracy or 0.0 for each in measured]
    return [
        Score(each.name, each.meaning, accuracy, each.entry.intervals["accuracy"], accuracies[0] - accuracy)
        for each, accuracy in zip(measured, accuracies, strict=True)
    ]


def _measured(metrics: RunMetrics, split: str, suffix: str) -> list[Measured]:
    """Return what was measured of a split, the clean images first."""
    views = " (TTA)" if suffix else ""
    columns = (
        (split + suffix, f"Clean{views}", "as they came from the microscope"),
        (
            f"{split}_heavy_mix{suffix}",
            f"Heavy mix{views}",
            "moved, recoloured, noisy, holed or corrupted",
        ),
        (f"{split}_medmnistc", "MedMNIST-C", "eleven corruptions, five severities each"),
    )
    there = metrics.measured()
    return [Measured(name, meaning, there[entry]) for entry, name, meaning in columns if entry in there]


def rows(entry: SplitMetrics) -> list[CorruptionRow]:
    """Return one row for each corruption."""
    return [
        CorruptionRow(
            display_name(row.corruption),
            [heat(value) for value in row.accuracy],
            heat(float(np.mean(row.accuracy))),
            row.balanced_error,
            row.balanced_error_to_alexnet,
            row.corruption == entry.worst_corruption,
        )
        for row in entry.corruptions
    ]


def severity_means(entry: SplitMetrics) -> list[float]:
    """Return the accuracy at each severity, averaged over the corruptions."""
    return [float(mean) for mean in np.mean([row.accuracy for row in entry.corruptions], 0)]


def recalls(metrics: RunMetrics, split: str, suffix: str) -> list[tuple[str, list[float], bool]]:
    """Return each class, its recall under each condition, and whether it is the worst under the last one."""
    entries = [each.entry for each in _measured(metrics, split, suffix)]
    if len(entries) < 2:
        return []
    found = [[row.recall for row in rows] for rows in zip(*(e.per_class for e in entries), strict=True)]
    judged = [row.support > 0 for row in entries[-1].per_class]
    worst = min(values[-1] for values, there in zip(found, judged, strict=True) if there)
    names = [row.name for row in entries[-1].per_class]
    return [
        (name, values, values[-1] == worst < 1)
        for name, values, there in zip(names, found, judged, strict=True)
        if there
    ]


def heat(accuracy: float) -> Heat:
    """Shade by the root of the share that is wrong: even a few mistakes must be visible."""
    shade = round(0.92 * (1 - accuracy) ** 0.5, 3)
    return Heat(accuracy, shade, "wrong strong" if shade > 0.55 else "wrong")


def display_name(corruption: str) -> str:
    """Return e.g. "JPEG compression" for jpeg_compression."""
    return corruption.replace("_", " ").replace("jpeg", "JPEG")


def sentences(metrics: RunMetrics, split: str, suffix: str) -> list[str]:
    """Return sentences about spoiled images; none where they were not measured.

    Args:
        metrics: The metrics of the run.
        split: val or test.
        suffix: "_tta" or "".
    """
    found = []
    shown = scores(metrics, split, suffix)
    if len(shown) > 1:
        found.append(
            f"Of the same images moved, recoloured, made noisy, holed or corrupted (the heavy mix), it names"
            f" {_points(shown[1].accuracy)} right."
        )
    corrupted = metrics.measured().get(f"{split}_medmnistc")
    if corrupted:
        worst = next(row for row in corrupted.corruptions if row.corruption == corrupted.worst_corruption)
        found.append(
            f"Under the corruptions of MedMNIST-C it names {_points(corrupted.accuracy or 0.0)} right on"
            f" average; worst is {display_name(worst.corruption)}, down to {_points(min(worst.accuracy))}."
        )
        weakest = next(row for row in corrupted.per_class if row.name == corrupted.worst_class)
        found.append(f"The worst class is {weakest.name}: it finds {_points(weakest.recall)} of them.")
    return found


def _points(share: float) -> str:
    text = f"{100 * share:.1f}"
    return ("99.9" if share < 1 and text == "100.0" else text) + "\N{NO-BREAK SPACE}%"
