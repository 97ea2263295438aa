from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers.folds import certain, fold_results
from helpers.pictures import Cell, colour_cells, inputs
from hemaflow.infra.errors import DataError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.review.label_errors import (
    CrossValidated,
    LabelErrorsConfig,
    find,
    parent_names,
    read_candidates,
    run,
    write_candidates,
)
from hemaflow.tasks.review.label_errors_page import Candidate

HOSTILE = "<script>alert('x')</script>"
CLASSES = ["blue", "green, or teal", HOSTILE]
CONFLICT = {
    "kind": "conflicting-label",
    "items": ["blue/1.png", "red/2.png"],
    "action": "dropped all",
    "reason": "the same pixels under several labels",
}


def cross_validated(
    seed: int, *, accuracy: float, flipped_share: float, num_images: int = 2000, num_classes: int = 8
) -> tuple[CrossValidated, set[str]]:
    """Predictions of a model of that accuracy on images of which so many bear a wrong label; and which."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, num_classes, num_images)
    named = np.where(
        rng.random(num_images) < accuracy,
        true,
        (true + rng.integers(1, num_classes, num_images)) % num_classes,
    )
    # A model that is wrong is less certain than one that is right.
    logits = rng.normal(0, 1, (num_images, num_classes))
    logits[np.arange(num_images), named] += np.where(named == true, 6.0, 3.0)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    flipped = rng.random(num_images) < flipped_share
    given = np.where(flipped, (true + rng.integers(1, num_classes, num_images)) % num_classes, true)
    ids = [f"{number:04d}" for number in range(num_images)]
    images = CrossValidated(ids, np.zeros(num_images, np.int64), given.astype(np.int64), probabilities)
    return images, {ids[place] for place in np.flatnonzero(flipped)}


@pytest.mark.parametrize(
    ("accuracy", "flipped_share", "least_precision", "least_recall"),
    [(0.99, 0.02, 0.85, 0.8), (0.95, 0.05, 0.75, 0.85)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_flipped_labels_are_found(
    seed: int, accuracy: float, flipped_share: float, least_precision: float, least_recall: float
) -> None:
    images, flipped = cross_validated(seed, accuracy=accuracy, flipped_share=flipped_share)
    found = find(images, "self_confidence")
    right = [candidate for candidate in found if candidate.id in flipped]
    assert len(right) >= least_recall * len(flipped)
    assert len(right) >= least_precision * len(found)
    # And those that were flipped come first: as many candidates as there are flips hold most of them.
    first = {candidate.id for candidate in found[: len(flipped)]}
    assert len(first & flipped) >= 0.8 * len(flipped)


@pytest.mark.parametrize("accuracy", [0.95, 0.99])
def test_of_right_labels_few_are_suspected(accuracy: float) -> None:
    images, _ = cross_validated(0, accuracy=accuracy, flipped_share=0.0)
    wrong = (images.probabilities.argmax(1) != images.labels).sum()
    assert wrong >= 20
    assert len(find(images, "self_confidence")) <= 0.1 * wrong


def test_the_order_is_that_of_the_score() -> None:
    labels = np.array([0] * 10 + [1] * 10 + [2, 0, 0], np.int64)
    right = [[0.9, 0.05, 0.05]] * 10 + [[0.05, 0.9, 0.05]] * 10 + [[0.0, 0.1, 0.9]]
    told = [*right, [0.01, 0.97, 0.02], [0.02, 0.96, 0.02]]
    ids = [f"{number:02d}" for number in range(23)]
    images = CrossValidated(ids, np.zeros(23, np.int64), labels, np.array(told))
    found = find(images, "self_confidence")
    assert [(candidate.id, candidate.given, candidate.suggested) for candidate in found] == [
        ("21", 0, 1),
        ("22", 0, 1),
    ]
    assert [candidate.score for candidate in found] == pytest.approx([0.01, 0.02])
    by_margin = find(images, "normalized_margin")
    assert [candidate.score for candidate in by_margin] == pytest.approx([0.02, 0.03])


# The result


@pytest.fixture
def cells() -> tuple[list[Cell], dict[str, NDArray[np.float32]]]:
    """Sixty cells and what is believed of them; 7, 20 and 41 bear the label after the one they should."""
    cells = colour_cells("cell", 60)
    believed = {cell.id: certain(cell.label, 3, 0.9) for cell in cells}
    for place, certainty in ((7, 0.97), (20, 0.99), (41, 0.98)):
        cell = cells[place]
        cells[place] = cell._replace(label=(cell.label + 1) % 3)
        believed[cell.id] = certain(cell.label, 3, certainty)
    return cells, believed


def made(
    store: LocalStore,
    cells: list[Cell],
    believed: dict[str, NDArray[np.float32]],
    num_folds: int = 3,
    **config: Any,
) -> Manifest:
    parents: dict[str, Manifest] = {}
    for fold, (ingest, evaluate) in enumerate(parent_names(num_folds)):
        results = fold_results(store, cells, believed, fold, num_folds, classes=CLASSES, findings=[CONFLICT])
        parents |= {ingest: results["ingest"], evaluate: results["evaluate"]}
    draft = Draft(store, inputs("label_errors", folds=num_folds, cells=[c.id for c in cells], **config))
    return run(Parents(store, parents), LabelErrorsConfig(**config), draft)


def pictures_of(page: str) -> list[NDArray[np.uint8]]:
    encoded = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in encoded]


def test_the_list_and_the_page_hold_the_candidates(
    store: LocalStore, cells: tuple[list[Cell], dict[str, NDArray[np.float32]]]
) -> None:
    manifest = made(store, *cells)
    rows = read_candidates(manifest.read(store, "label-errors.csv"))
    assert [(row.rank, row.id, row.fold) for row in rows] == [
        (1, "cell20", 2),
        (2, "cell41", 2),
        (3, "cell7", 1),
    ]
    assert [(row.given, row.suggested) for row in rows] == [
        ("blue", HOSTILE),
        ("blue", HOSTILE),
        (HOSTILE, "green, or teal"),
    ]
    assert rows[0].score == pytest.approx(0.005, abs=1e-6)
    assert list(rows[0].probabilities) == CLASSES
    assert list(rows[0].probabilities.values()) == pytest.approx([0.005, 0.005, 0.99], abs=1e-6)
    assert manifest.facts["num_images"] == 60
    assert manifest.facts["num_candidates"] == 3
    assert manifest.facts["conflicts"] == [["blue/1.png", "red/2.png"]]
    page = manifest.read(store, "label-errors.html").decode()
    shown = pictures_of(page)
    assert len(shown) == 3
    for row, picture in zip(rows, shown, strict=True):
        assert np.array_equal(picture, cells[0][int(row.id.removeprefix("cell"))].image)
    assert "blue/1.png = red/2.png" in page
    assert HOSTILE not in page
    assert "Of 60 images, 3 may have a wrong label" in page
    assert "--accent" in page  # the style of the report
    assert "report</title>" not in page


@pytest.mark.parametrize("name", ["a\rb", "a\nb", 'x"y,z', "=1+1"])
def test_odd_names_are_read_back(name: str) -> None:
    candidate = Candidate(id=name, given=0, suggested=1, score=0.25, fold=2, probabilities=[0.25, 0.75])
    [row] = read_candidates(write_candidates([candidate], [name, "other"]))
    assert (row.id, row.given, row.suggested, row.fold) == (name, name, "other", 2)
    assert row.probabilities == {name: 0.25, "other": 0.75}


def test_the_order_of_the_folds_does_not_matter(
    store: LocalStore, cells: tuple[list[Cell], dict[str, NDArray[np.float32]]]
) -> None:
    listed, believed = cells
    one = made(store, listed, believed, num_folds=2)
    other = made(store, [*listed[1:], listed[0]], believed, num_folds=2)
    assert [row.id for row in read_candidates(other.read(store, "label-errors.csv"))] == [
        row.id for row in read_candidates(one.read(store, "label-errors.csv"))
    ]
    assert one.object("label-errors.html").sha256 == other.object("label-errors.html").sha256


def test_the_page_shows_no_more_than_it_is_asked_to(
    store: LocalStore, cells: tuple[list[Cell], dict[str, NDArray[np.float32]]]
) -> None:
    manifest = made(store, *cells, num_pictures=1)
    page = manifest.read(store, "label-errors.html").decode()
    assert len(pictures_of(page)) == 1
    assert "2 more are in label-errors.csv" in page
    assert len(read_candidates(manifest.read(store, "label-errors.csv"))) == 3


def test_where_nothing_is_contradicted_the_page_says_so(store: LocalStore) -> None:
    cells = colour_cells("cell", 30)
    manifest = made(store, cells, {cell.id: certain(cell.label, 3) for cell in cells})
    assert read_candidates(manifest.read(store, "label-errors.csv")) == []
    page = manifest.read(store, "label-errors.html").decode()
    assert "No label contradicts" in page
    assert pictures_of(page) == []


def test_folds_of_different_images_are_refused(
    store: LocalStore, cells: tuple[list[Cell], dict[str, NDArray[np.float32]]]
) -> None:
    listed, believed = cells
    first = fold_results(store, listed, believed, 0, 2, classes=CLASSES)
    second = fold_results(store, listed[:-2], believed, 1, 2, classes=CLASSES)
    parents = {
        "ingest_0": first["ingest"],
        "evaluate_0": first["evaluate"],
        "ingest_1": second["ingest"],
        "evaluate_1": second["evaluate"],
    }
    with pytest.raises(DataError, match="do not belong together"):
        run(Parents(store, parents), LabelErrorsConfig(), Draft(store, inputs("label_errors")))
