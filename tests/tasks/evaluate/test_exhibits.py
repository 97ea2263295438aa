"""Which images the report shows, and that they are the ones it says."""

from __future__ import annotations

import numpy as np

from helpers.pictures import SIZE, colour_cells, ingested
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.evaluate.exhibits import Judged, choose_cases, find_mistakes, read_images

LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 0, 2])
NAMED = [0, 0, 1, 0, 2, 1, 0, 0, 0]
SURE = [0.6, 0.9, 0.7, 0.5, 0.8, 0.6, 0.9, 0.9, 0.7]


def probabilities() -> np.ndarray:
    found = np.zeros((len(NAMED), 3), np.float32)
    for row, (label, sure) in enumerate(zip(NAMED, SURE, strict=True)):
        found[row] = (1 - sure) / 2
        found[row, label] = sure
    return found


def test_of_each_class_the_surest_right_one_and_the_surest_mistakes() -> None:
    # Of two that are as sure, the first; class 2 has no right one.
    assert choose_cases(LABELS, probabilities(), 3) == [1, 2, 5, 6, 4, 8]
    assert choose_cases(LABELS, probabilities(), 1) == [1, 5, 8]
    assert choose_cases(LABELS, probabilities(), 0) == []
    assert choose_cases(LABELS[:0], probabilities()[:0], 3) == []


def test_mistakes_are_the_most_confident_with_their_own_images(store: LocalStore) -> None:
    cells = colour_cells("cell", 9, (0, 1, 2))
    parents = Parents(store, {"ingest": ingested(store, "cells", {"test": cells})})
    judged = Judged("test", [cell.id for cell in cells], LABELS, probabilities())
    mistakes = find_mistakes(parents, judged, 3, 4)
    assert [(mistake.id, mistake.label, mistake.predicted) for mistake in mistakes] == [
        ("cell6", 1, 0),
        ("cell4", 1, 2),
        ("cell2", 0, 1),
    ]
    for mistake in mistakes:
        np.testing.assert_array_equal(mistake.image, cells[int(mistake.id[4:])].image)
    assert find_mistakes(parents, judged, 0, 4) == []


def test_images_are_read_wherever_their_batch_is(store: LocalStore) -> None:
    cells = colour_cells("cell", 11, (0, 1, 2))
    parents = Parents(store, {"ingest": ingested(store, "cells", {"test": cells})})
    images = read_images(parents, "test", [10, 0, 3, 4, 3], 4)
    assert sorted(images) == [0, 3, 4, 10]
    for row, image in images.items():
        assert image.shape == (SIZE, SIZE, 3)
        np.testing.assert_array_equal(image, cells[row].image)
    assert read_images(parents, "val", [], 4) == {}
