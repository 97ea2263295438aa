"""Scores a submission on any pictures, for `hemaflow check`.

Reads a submission zip and a data source; writes nothing. Runs the submission in a fresh interpreter that
cannot import this project, as its judges do.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.core.facts import Split
from hemaflow.tasks.core.run_metrics import ClassScores
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.evaluate.metrics import class_scores
from hemaflow.tasks.sources.archives import BROKEN_ZIP
from hemaflow.tasks.sources.base import Item, Source
from hemaflow.tasks.sources.images import Fit, Unreadable, fit
from hemaflow.tasks.sources.registry import open_source
from hemaflow.tasks.submit.package import Outcome, run_submission, write_images

MAX_CONFIG_BYTES = 64 << 20
"""Maximum size of a model's config.json that is read: that of the largest backbone is below 1 MB."""
USUAL_PIXELS = 96
"""The size of the competition's pictures."""


class Scorecard(NamedTuple):
    """The scores of a submission."""

    split: str
    """The split that was scored: `all`, or a split of the source."""
    num_images: int
    size_pixels: int
    """Height and width that the pictures were resized to."""
    accuracy: float
    interval: tuple[float, float]
    """95 % interval of the accuracy (Wilson, 1927)."""
    balanced_accuracy: float
    macro_f1: float
    per_class: list[ClassScores]
    """The scores of the classes present, in label order."""
    unreadable: dict[str, str]
    """Picture that was left out → the reason."""
    seconds: float
    """Run time of the submission, its start included."""
    versions: dict[str, str]
    """Versions of the interpreter and the libraries."""


def check_submission(
    zip_path: Path,
    data: str,
    settings: Settings,
    *,
    split: Split | Literal["all", ""] = "",
    size_pixels: int = 0,
    fit_method: Fit = "crop",
) -> Scorecard:
    """Return the scores of a submission on the pictures of a source, without cleaning.

    Args:
        zip_path: The submission. Its code runs with the caller's rights.
        data: The value of `--data`.
        settings: Paths of this machine.
        split: The split to score where the source has splits of its own; "" is test there, else all.
        size_pixels: Height and width to resize pictures to; 0 for those of the submission's own model, or 96
            where they are unknown.
        fit_method: How to resize; see `hemaflow.tasks.sources.images.fit`.

    Raises:
        DataError: The zip or the source cannot be used, or the submission has other classes.
        StageError: The submission failed or broke the contract.
    """
    size_pixels = size_pixels or own_size(zip_path) or USUAL_PIXELS
    with open_source(data, settings) as source, scratch_folder() as folder:
        scan = source.scan()
        chosen, items = _of_split(scan.items, split, source.name)
        images_path = folder / "images.npy"
        readable: list[Item] = []
        unreadable: dict[str, str] = {}
        pixels = _read(source, items, size_pixels, fit_method, readable, unreadable)
        write_images(images_path, size_pixels, pixels)
        if not readable:
            raise DataError("None of the pictures can be read.", received=next(iter(unreadable.values())))
        started = time.monotonic()
        outcome = run_submission(zip_path, images_path)
        seconds = time.monotonic() - started
    classes = _classes(outcome, scan.classes, zip_path)
    labels = np.array([classes.index(item.class_name) for item in readable], np.int64)
    return _scorecard(labels, outcome, classes, chosen, size_pixels, unreadable, seconds)


def own_size(zip_path: Path) -> int:
    """Return the height that the `model.keras` of a submission takes, in pixels; 0 where it is unknown."""
    try:
        with zipfile.ZipFile(zip_path) as archive, archive.open("model.keras") as packed:
            with zipfile.ZipFile(packed) as model:
                if model.getinfo("config.json").file_size > MAX_CONFIG_BYTES:
                    return 0
                config = json.loads(model.read("config.json"))
        first = config["config"]["layers"][0]["config"]["batch_shape"]
        return int(first[1] or 0)
    except (*BROKEN_ZIP, OSError, ValueError, LookupError, TypeError, RuntimeError):
        return 0  # another kind of model, or not a zip: running it reports that


def _of_split(items: Sequence[Item], split: str, name: str) -> tuple[str, Sequence[Item]]:
    present = {item.split for item in items}
    chosen = split or ("all" if present == {""} else "test")
    if chosen == "all":
        return chosen, items
    of_split = [item for item in items if item.split == chosen]
    if not of_split:
        raise DataError(
            f"The source has no {chosen} split.",
            received=", ".join(sorted(present - {""})) or "no splits",
            where=name,
            remedy="Score all of it with: --split all",
        )
    return chosen, of_split


def _read(
    source: Source,
    items: Sequence[Item],
    size_pixels: int,
    fit_method: Fit,
    readable: list[Item],
    unreadable: dict[str, str],
) -> Iterator[NDArray[np.uint8]]:
    """Yield uint8[1, S, S, 3] for each readable picture; add each item to `readable` or `unreadable`."""
    for item in items:
        try:
            pixels = fit(source.read(item.ref), size_pixels, fit_method)
        except Unreadable as error:
            unreadable[item.ref] = str(error)
        else:
            readable.append(item)
            yield pixels[None]


def _classes(outcome: Outcome, found: Sequence[str], zip_path: Path) -> list[str]:
    """Return the names of labels 0, 1, …: the classes of the submission, or the competition's eight classes
    if they include those of the source, or those of the source."""
    if not outcome.classes:
        return list(PBC_CLASSES if set(found) <= set(PBC_CLASSES) else found)
    unknown = [name for name in found if name not in outcome.classes]
    if unknown:
        raise DataError(
            "The submission lacks classes of the data.",
            expected=", ".join(outcome.classes),
            received=", ".join(unknown),
            where=zip_path.name,
            remedy="Name the folders of the data as the classes of the submission.",
        )
    return list(outcome.classes)


def _scorecard(
    labels: NDArray[np.int64],
    outcome: Outcome,
    classes: Sequence[str],
    split: str,
    size_pixels: int,
    unreadable: dict[str, str],
    seconds: float,
) -> Scorecard:
    from scipy.stats import binomtest
    from sklearn.metrics import f1_score

    predicted = outcome.labels
    per_class = class_scores(labels, predicted, classes, np.unique(labels).tolist())
    right = int((predicted == labels).sum())
    interval = binomtest(right, len(labels)).proportion_ci(method="wilson")
    return Scorecard(
        split=split,
        num_images=len(labels),
        size_pixels=size_pixels,
        accuracy=right / len(labels),
        interval=(float(interval.low), float(interval.high)),
        balanced_accuracy=float(np.mean([row.recall for row in per_class])),
        # Over the classes that are present or predicted, as in a report.
        macro_f1=float(f1_score(labels, predicted, average="macro", zero_division=0)),
        per_class=per_class,
        unreadable=unreadable,
        seconds=round(seconds, 2),
        versions=outcome.versions,
    )
