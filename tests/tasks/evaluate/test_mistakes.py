"""Which mistakes evaluate keeps, and that their pictures are the ones it says."""

from __future__ import annotations

import numpy as np

from helpers.pictures import SIZE, colour_cells, ingested, inputs
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.evaluate.mistakes import Judged, find_mistakes, read_mistakes, write_mistakes
from hemaflow.tasks.inference.classifier import read_images

LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 0, 2])
NAMED = [0, 0, 1, 0, 2, 1, 0, 0, 0]
SURE = [0.6, 0.9, 0.7, 0.5, 0.8, 0.6, 0.9, 0.9, 0.7]


def probabilities() -> np.ndarray:
    found = np.zeros((len(NAMED), 3), np.float32)
    for row, (label, sure) in enumerate(zip(NAMED, SURE, strict=True)):
        found[row] = (1 - sure) / 2
        found[row, label] = sure
    return found


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
    for kept in (mistakes, []):
        draft = Draft(store, inputs("evaluate", num_mistakes=len(kept)))
        draft.put("mistakes.npz", write_mistakes(kept))
        read = read_mistakes(store, draft.commit())
        assert [vars(mistake) | {"image": mistake.image.tolist()} for mistake in read] == [
            vars(mistake) | {"image": mistake.image.tolist()} for mistake in kept
        ]


def test_images_are_read_wherever_their_batch_is(store: LocalStore) -> None:
    cells = colour_cells("cell", 11, (0, 1, 2))
    parents = Parents(store, {"ingest": ingested(store, "cells", {"test": cells})})
    images = read_images(parents, "test", [10, 0, 3, 4, 3], 4)
    assert sorted(images) == [0, 3, 4, 10]
    for row, image in images.items():
        assert image.shape == (SIZE, SIZE, 3)
        np.testing.assert_array_equal(image, cells[row].image)
    assert read_images(parents, "val", [], 4) == {}
