"""Score a submission on pictures of one's own: what `hemaflow check` shows.

Reads a submission zip and a data source; writes nothing. The submission is run by a fresh interpreter that
cannot import this project, as its judges would run it.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.core.facts import Split
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.sources.archives import BROKEN_ZIP
from hemaflow.tasks.sources.base import Item, Source
from hemaflow.tasks.sources.images import Fit, Unreadable, fit
from hemaflow.tasks.sources.registry import open_source
from hemaflow.tasks.submit.package import Outcome, run_submission, write_images

USUAL_PIXELS = 96
"""The size of the competition's pictures."""


class Scorecard(NamedTuple):
    """How a submission did."""

    split: str
    """The split that was scored: `all` or that of the source."""
    num_images: int
    size_pixels: int
    """The square that the pictures were brought to."""
    accuracy: float
    interval: tuple[float, float]
    """95 %, of the accuracy (Wilson, 1927)."""
    balanced_accuracy: float
    macro_f1: float
    per_class: list[dict[str, Any]]
    """class, precision, recall, f1, support; in label order."""
    unreadable: dict[str, str]
    """Pictures that were left out, with the reason."""
    seconds: float
    """What the submission took, its start included."""
    versions: dict[str, str]
    """Of the interpreter and the libraries that it ran under."""


def check_submission(
    zip_path: Path,
    data: str,
    settings: Settings,
    *,
    split: Split | Literal["all", ""] = "",
    size_pixels: int = 0,
    fit_method: Fit = "crop",
) -> Scorecard:
    """Return the scores of a submission on the pictures of a source, as they are: nothing is cleaned.

    Args:
        zip_path: The submission. Its code is run with the caller's rights.
        data: What `--data` names.
        settings: Where things are on this machine.
        split: The split to score where the source has splits of its own; "" is test there, else all.
        size_pixels: Pictures are brought to this square; 0 for what the submission's own model takes, or 96
            where that cannot be told.
        fit_method: How; see `hemaflow.tasks.sources.images.fit`.

    Raises:
        DataError: The zip or the source cannot be used, or the submission knows other classes.
        StageError: The submission failed.
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
    """Return the height that the `model.keras` of a submission takes, in pixels; 0 where it tells none."""
    try:
        with zipfile.ZipFile(zip_path) as archive, archive.open("model.keras") as packed:
            with zipfile.ZipFile(packed) as model:
                config = json.loads(model.read("config.json"))
        first = config["config"]["layers"][0]["config"]["batch_shape"]
        return int(first[1] or 0)
    except (*BROKEN_ZIP, OSError, KeyError, IndexError, TypeError):
        return 0  # of another kind, or no zip at all, which running it will tell


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
    """Yield uint8[1, S, S, 3] for each picture that can be read, and say which could."""
    for item in items:
        try:
            pixels = fit(source.read(item.ref), size_pixels, fit_method)
        except Unreadable as error:
            unreadable[item.ref] = str(error)
        else:
            readable.append(item)
            yield pixels[None]


def _classes(outcome: Outcome, found: Sequence[str], zip_path: Path) -> list[str]:
    """Return the names of labels 0, 1, …: those the submission tells, else those of the competition's eight
    where the source's are among them, else the source's own."""
    if not outcome.classes:
        return list(PBC_CLASSES if set(found) <= set(PBC_CLASSES) else found)
    unknown = [name for name in found if name not in outcome.classes]
    if unknown:
        raise DataError(
            "The submission does not know classes of the data.",
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
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    predicted = outcome.labels
    present = np.unique(labels)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=present, zero_division=0
    )
    right = int((predicted == labels).sum())
    interval = binomtest(right, len(labels)).proportion_ci(method="wilson")
    return Scorecard(
        split=split,
        num_images=len(labels),
        size_pixels=size_pixels,
        accuracy=right / len(labels),
        interval=(float(interval.low), float(interval.high)),
        balanced_accuracy=float(recall.mean()),
        # Over the classes that are there or are named, as in a report.
        macro_f1=float(f1_score(labels, predicted, average="macro", zero_division=0)),
        per_class=[
            {
                "class": classes[label],
                "precision": float(precision[row]),
                "recall": float(recall[row]),
                "f1": float(f1[row]),
                "support": int(support[row]),
            }
            for row, label in enumerate(present)
        ],
        unreadable=unreadable,
        seconds=round(seconds, 2),
        versions=outcome.versions,
    )
