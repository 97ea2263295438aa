"""Spoiled images: the probabilities and the pictures are those of the spoiled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.pictures import SIZE, Cell, colour_cells, ingested
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.predict import heavy_mix
from hemaflow.tasks.predict.config import PredictConfig
from hemaflow.tasks.predict.medmnist_c import MEDMNIST_C, NUM_SEVERITIES, corrupt
from hemaflow.tasks.predict.probabilities import SpoiledPredictions
from hemaflow.tasks.predict.spoiled import Asker, SpoiledPictures, draw, predict_spoiled

NAMES = list(MEDMNIST_C)
VIEWS = ("identity", "flip-horizontal")


class LeadingColour:
    """A model that names the colour that leads in the left half; remembers how many images it was given."""

    output_shape = (None, 3)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict_on_batch(self, images: Any) -> np.ndarray:
        pixels = np.asarray(images)
        self.batches.append(len(pixels))
        weights = np.exp(pixels[:, :, : SIZE // 2].mean((1, 2)) / 8)
        return weights / weights.sum(1, keepdims=True)

    def of(self, images: np.ndarray) -> np.ndarray:
        return self.predict_on_batch(images.astype(np.float32))


def results(store: LocalStore, cells: list[Cell]) -> Parents:
    return Parents(store, {"ingest": ingested(store, "cells", {"test": cells})})


def predicted(
    parents: Parents, model: LeadingColour, folder: Path, **more: Any
) -> tuple[SpoiledPredictions, SpoiledPictures]:
    config = PredictConfig(**{"views": VIEWS, "batch_size": 8, "robustness_seed": 4, **more})
    return predict_spoiled(parents, model, "test", config, folder, lambda *_: None)


@pytest.mark.slow
def test_the_answers_are_those_to_the_spoiled_images(store: LocalStore, tmp_path: Path) -> None:
    cells = colour_cells("cell", 21, (0, 1, 2))
    model = LeadingColour()
    found, _ = predicted(results(store, cells), model, tmp_path)
    images, ids = np.stack([cell.image for cell in cells]), [cell.id for cell in cells]
    np.testing.assert_array_equal(found.labels, [cell.label for cell in cells])
    assert set(model.batches) == {8}
    assert found.medmnistc is not None
    for number, name in enumerate(NAMES):
        for severity in range(1, NUM_SEVERITIES + 1):
            expected = model.of(corrupt(images, ids, name, severity, 4))
            np.testing.assert_allclose(found.medmnistc[number, severity - 1], expected, rtol=1e-5)
    mixed = heavy_mix.spoil(images, ids, 4)
    plain, flipped = found.heavy_mix
    np.testing.assert_allclose(plain, model.of(mixed), rtol=1e-5)
    np.testing.assert_allclose(flipped, model.of(mixed[:, :, ::-1]), rtol=1e-5)
    assert (plain.argmax(1) != found.labels).any()  # else this says nothing


@pytest.mark.slow
def test_the_pictures_are_of_each_class_and_of_each_corruption(store: LocalStore, tmp_path: Path) -> None:
    cells = colour_cells("cell", 9, (0, 1, 2))
    _, pictures = predicted(results(store, cells), LeadingColour(), tmp_path)
    assert list(pictures.first) == [0, 1, 2]
    expected = heavy_mix.spoil(cells[1].image[None], ["cell1"], 4)[0]
    np.testing.assert_array_equal(pictures.first[1], expected)
    np.testing.assert_array_equal(pictures.original, cells[0].image)
    for name, image in zip(NAMES, pictures.corrupted, strict=True):
        np.testing.assert_array_equal(
            image, corrupt(cells[0].image[None], ["cell0"], name, NUM_SEVERITIES, 4)[0]
        )


@pytest.mark.slow
def test_some_images_have_the_answers_that_they_have_among_all(store: LocalStore, tmp_path: Path) -> None:
    parents = results(store, colour_cells("cell", 40, (0, 1, 2)))
    for name in ("whole", "some"):
        (tmp_path / name).mkdir()
    whole, _ = predicted(parents, LeadingColour(), tmp_path / "whole")
    model = LeadingColour()
    some, _ = predicted(parents, model, tmp_path / "some", robustness_images=19, batch_size=5)
    chosen = draw(40, 19, 4)
    assert chosen.sum() == 19
    np.testing.assert_array_equal(some.labels, whole.labels[chosen])
    assert whole.medmnistc is not None
    np.testing.assert_allclose(some.medmnistc, whole.medmnistc[:, :, chosen], rtol=1e-5)
    np.testing.assert_allclose(some.heavy_mix, whole.heavy_mix[:, chosen], rtol=1e-5)
    # 19 images once for each view in batches of 5, 55 · 19 in full ones: none is wasted.
    assert len(model.batches) == 2 * 4 + 55 * 19 // 5


@pytest.mark.slow
def test_the_heavy_mix_alone_asks_nothing_else(store: LocalStore, tmp_path: Path) -> None:
    model = LeadingColour()
    parents = results(store, colour_cells("cell", 8, (0, 1, 2)))
    found, pictures = predicted(parents, model, tmp_path, robustness="heavy_mix")
    assert found.medmnistc is None
    assert len(pictures.first) == 3
    assert (pictures.original, pictures.corrupted) == (None, [])
    assert len(model.batches) == 2


def test_an_empty_split_gives_nothing(store: LocalStore, tmp_path: Path) -> None:
    cells = {"val": colour_cells("cell", 3, (0, 1, 2))}
    parents = Parents(store, {"ingest": ingested(store, "cells", cells)})
    found, pictures = predicted(parents, LeadingColour(), tmp_path)
    assert len(found.labels) == 0
    assert found.heavy_mix.shape == (2, 0, 3)
    assert found.medmnistc is not None
    assert found.medmnistc.shape == (11, 5, 0, 3)
    assert pictures == SpoiledPictures({}, None, [])


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 3))
def test_a_draw_is_of_the_size_asked_and_follows_from_the_seed(total: int, asked: int, seed: int) -> None:
    chosen = draw(total, asked, seed)
    assert chosen.sum() == (min(asked, total) or total)
    np.testing.assert_array_equal(chosen, draw(total, asked, seed))


@given(st.lists(st.integers(0, 7), max_size=12), st.integers(1, 5))
@pytest.mark.slow
def test_every_image_gets_its_own_answer_however_they_come(sizes: list[int], batch_size: int) -> None:
    class Reader:
        output_shape = (None, 256)

        def __init__(self) -> None:
            self.batches = 0

        def predict_on_batch(self, images: Any) -> np.ndarray:
            self.batches += 1
            return np.eye(256)[np.asarray(images)[:, 0, 0, 0].astype(int)]

    reader = Reader()
    asker = Asker(reader, batch_size)
    answers, start = np.zeros((sum(sizes), 256), np.float32), 0
    for size in sizes:
        values = np.arange(start, start + size, dtype=np.uint8)
        asker.ask(np.tile(values[:, None, None, None], (1, 1, 1, 3)), answers[start : start + size])
        start += size
    asker.finish()
    np.testing.assert_array_equal(answers, np.eye(256)[:start])
    assert reader.batches == -(-start // batch_size)
