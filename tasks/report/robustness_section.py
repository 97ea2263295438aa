"""What the report says of spoiled images: figures, tables and pictures, ready to print.

Reads the entries heavy, heavy_tta and medmnistc of metrics.json and the examples that
`tasks/evaluate/robustness.py` kept; `tasks/report/report.py` renders what `section` returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Score(NamedTuple):
    """One of the figures that stand side by side."""

    name: str
    meaning: str
    accuracy: float
    interval: tuple[float, float]
    lost: float
    """Accuracy lost against clean images."""


class Heat(NamedTuple):
    """One share of the table, and how strongly to colour it."""

    value: float
    shade: float
    """In 0..1; the worse, the more."""
    kind: str


def scores(metrics: Mapping[str, Any], split: str, suffix: str) -> list[Score]:
    """Return the accuracies on clean, heavily spoiled and corrupted images, as far as they were measured.

    Args:
        metrics: The content of metrics.json.
        split: val or test.
        suffix: "_tta" where clean and heavy are to be averaged over the views, "" where not.
    """
    measured = _measured(metrics, split, suffix)
    clean = measured[0][3]["accuracy"] if measured else 0.0
    return [
        Score(name, meaning, found["accuracy"], found["intervals"]["accuracy"], clean - found["accuracy"])
        for _, name, meaning, found in measured
    ]


def _measured(
    metrics: Mapping[str, Any], split: str, suffix: str
) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """Return entry, name, meaning and content of what was measured of a split, the clean images first."""
    views = " (TTA)" if suffix else ""
    columns = (
        (split + suffix, f"Clean{views}", "as they came from the microscope"),
        (
            f"{split}_heavy{suffix}",
            f"Heavy mix{views}",
            "moved, recoloured, noisy, holed or corrupted",
        ),
        (f"{split}_medmnistc", "MedMNIST-C", "eleven corruptions, five severities each"),
    )
    return [
        (entry, name, meaning, metrics[entry])
        for entry, name, meaning in columns
        if metrics.get(entry, {}).get("num_examples")
    ]


def rows(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each corruption: its accuracy by severity and on the mean, and its balanced error."""
    return [
        {
            "name": spoken(row["corruption"]),
            "cells": [heat(value) for value in row["accuracy"]],
            "mean": heat(float(np.mean(row["accuracy"]))),
            "balanced_error": row["balanced_error"],
            "to_alexnet": row["balanced_error_to_alexnet"],
            "worst": row["corruption"] == entry["worst_corruption"],
        }
        for row in entry.get("corruptions", ())
    ]


def severity_means(entry: Mapping[str, Any]) -> list[float]:
    """Return the accuracy at each severity, its mean over the corruptions."""
    return [float(mean) for mean in np.mean([row["accuracy"] for row in entry.get("corruptions", ())], 0)]


def recalls(metrics: Mapping[str, Any], split: str, suffix: str) -> list[tuple[str, list[float], bool]]:
    """Return each class, its recall in each of `scores`, and whether it is the worst of the last."""
    entries = [metrics[entry] for entry, *_ in _measured(metrics, split, suffix)]
    if len(entries) < 2:
        return []
    found = [[row["recall"] for row in rows] for rows in zip(*(e["per_class"] for e in entries), strict=True)]
    judged = [row["support"] > 0 for row in entries[-1]["per_class"]]
    worst = min(values[-1] for values, there in zip(found, judged, strict=True) if there)
    names = [row["class"] for row in entries[-1]["per_class"]]
    return [
        (name, values, values[-1] == worst < 1)
        for name, values, there in zip(names, found, judged, strict=True)
        if there
    ]


def heat(accuracy: float) -> Heat:
    """Shade by the root of the share that is wrong: even a little must be seen."""
    shade = round(0.92 * (1 - accuracy) ** 0.5, 3)
    return Heat(accuracy, shade, "wrong strong" if shade > 0.55 else "wrong")


def spoken(corruption: str) -> str:
    """Return e.g. "JPEG compression" for jpeg_compression."""
    return corruption.replace("_", " ").replace("jpeg", "JPEG")


def sentences(metrics: Mapping[str, Any], split: str, suffix: str) -> list[str]:
    """Say in words how much spoiled images cost; nothing where that was not measured.

    Args:
        metrics: The content of metrics.json.
        split: val or test.
        suffix: "_tta" or "".
    """
    said = []
    shown = scores(metrics, split, suffix)
    if len(shown) > 1:
        heavy = shown[1]
        said.append(
            f"Of the same images moved, recoloured, made noisy, holed or corrupted (the heavy mix), it names"
            f" {_points(heavy.accuracy)} right."
        )
    corrupted = metrics.get(f"{split}_medmnistc", {})
    if corrupted.get("num_examples"):
        worst = next(r for r in corrupted["corruptions"] if r["corruption"] == corrupted["worst_corruption"])
        said.append(
            f"Under the corruptions of MedMNIST-C it names {_points(corrupted['accuracy'])} right on average;"
            f" it minds {spoken(worst['corruption'])} most, down to {_points(min(worst['accuracy']))}."
        )
        weakest = next(r for r in corrupted["per_class"] if r["class"] == corrupted["worst_class"])
        said.append(
            f"It suffers most with {weakest['class']}: {_points(weakest['recall'])} of them are found."
        )
    return said


def _points(share: float) -> str:
    text = f"{100 * share:.1f}"
    return ("99.9" if share < 1 and text == "100.0" else text) + "\N{NO-BREAK SPACE}%"
