"""Robustness: the answers are those to the spoiled images, and the figures are those of the answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.pictures import CLASSES, SIZE, Cell, colour_cells, ingested
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.run_metrics import SplitMetrics
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.evaluate import heavy_mix
from hemaflow.tasks.evaluate.medmnist_c import ALEXNET_BALANCED_ERROR, MEDMNIST_C, NUM_SEVERITIES, corrupt
from hemaflow.tasks.evaluate.robustness import Asker, Robustness, draw, evaluate_medmnist_c, measure

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

    def names(self, images: np.ndarray) -> np.ndarray:
        return self.predict_on_batch(images.astype(np.float32)).argmax(1)


def results(store: LocalStore, cells: list[Cell]) -> Parents:
    return Parents(store, {"ingest": ingested(store, "cells", {"test": cells})})


def measured(parents: Parents, model: LeadingColour, **more: Any) -> Robustness:
    arguments = {
        "batch_size": 8,
        "num_images": 0,
        "seed": 4,
        "medmnist_c": True,
        "progress": lambda *_: None,
    }
    return measure(parents, model, "test", VIEWS, **{**arguments, **more})


@pytest.mark.slow
def test_the_answers_are_those_to_the_spoiled_images(store: LocalStore) -> None:
    cells = colour_cells("cell", 21, (0, 1, 2))
    model = LeadingColour()
    found = measured(results(store, cells), model)
    images, ids = np.stack([cell.image for cell in cells]), [cell.id for cell in cells]
    np.testing.assert_array_equal(found.labels, [cell.label for cell in cells])
    assert set(model.batches) == {8}
    for number, name in enumerate(NAMES):
        for severity in range(1, NUM_SEVERITIES + 1):
            expected = model.names(corrupt(images, ids, name, severity, 4))
            np.testing.assert_array_equal(found.named[number, severity - 1], expected)
    mixed = heavy_mix.spoil(images, ids, 4).astype(np.float32)
    assert list(found.heavy_mix) == list(VIEWS)
    plain, flipped = (model.predict_on_batch(pixels) for pixels in (mixed, mixed[:, :, ::-1]))
    np.testing.assert_allclose(found.heavy_mix["identity"], plain, rtol=1e-5)
    np.testing.assert_allclose(found.heavy_mix["flip-horizontal"], flipped, rtol=1e-5)
    assert (found.heavy_mix["identity"].argmax(1) != found.labels).any()  # else this says nothing


@pytest.mark.slow
def test_the_examples_are_of_each_class_and_of_each_corruption(store: LocalStore) -> None:
    cells = colour_cells("cell", 9, (0, 1, 2))
    model = LeadingColour()
    found = measured(results(store, cells), model)
    examples = found.examples(["flip-horizontal"])
    assert [example.label for example in examples.heavy_mix] == [0, 1, 2]
    assert [example.predicted for example in examples.heavy_mix] == [
        found.heavy_mix["flip-horizontal"][row].argmax() for row in found.first
    ]
    np.testing.assert_array_equal(
        examples.heavy_mix[1].image, heavy_mix.spoil(cells[1].image[None], ["cell1"], 4)[0]
    )
    assert [example.corruption for example in examples.corruptions] == NAMES
    np.testing.assert_array_equal(examples.original, cells[0].image)
    for example in examples.corruptions:
        expected = corrupt(cells[0].image[None], ["cell0"], example.corruption, NUM_SEVERITIES, 4)
        np.testing.assert_array_equal(example.image, expected[0])
        assert example.predicted == model.names(expected)[0]


@pytest.mark.slow
def test_some_images_have_the_answers_that_they_have_among_all(store: LocalStore) -> None:
    parents = results(store, colour_cells("cell", 40, (0, 1, 2)))
    whole = measured(parents, LeadingColour())
    model = LeadingColour()
    some = measured(parents, model, num_images=19, batch_size=5)
    chosen = draw(40, 19, 4)
    assert chosen.sum() == 19
    np.testing.assert_array_equal(some.labels, whole.labels[chosen])
    np.testing.assert_array_equal(some.named, whole.named[:, :, chosen])
    for view in VIEWS:
        np.testing.assert_allclose(some.heavy_mix[view], whole.heavy_mix[view][chosen], rtol=1e-5)
    # 19 images once for each view in batches of 5, 55 · 19 in full ones: none is wasted.
    assert len(model.batches) == 2 * 4 + 55 * 19 // 5


@pytest.mark.slow
def test_the_heavy_mix_alone_asks_nothing_else(store: LocalStore) -> None:
    model = LeadingColour()
    found = measured(results(store, colour_cells("cell", 8, (0, 1, 2))), model, medmnist_c=False)
    assert found.named.shape[0] == 0
    examples = found.examples(VIEWS)
    assert len(examples.heavy_mix) == 3
    assert (examples.original, examples.corruptions) == (None, [])
    assert len(model.batches) == 2


def test_an_empty_split_gives_nothing(store: LocalStore) -> None:
    parents = Parents(
        store, {"ingest": ingested(store, "cells", {"val": colour_cells("cell", 3, (0, 1, 2))})}
    )
    found = measured(parents, LeadingColour())
    assert len(found.labels) == 0
    assert found.examples(VIEWS).heavy_mix == found.examples(VIEWS).corruptions == []
    entry = evaluate_medmnist_c(found.labels, found.named, CLASSES, resamples=10, seed=0)
    assert entry == SplitMetrics(num_examples=0)


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
    answers, start = np.full(sum(sizes), -1), 0
    for size in sizes:
        values = np.arange(start, start + size, dtype=np.uint8)
        asker.ask(np.tile(values[:, None, None, None], (1, 1, 1, 3)), answers[start : start + size])
        start += size
    asker.finish()
    np.testing.assert_array_equal(answers, np.arange(start))
    assert reader.batches == -(-start // batch_size)


def test_the_figures_of_known_answers() -> None:
    labels = np.array([0, 0, 0, 1])
    named = np.tile(labels, (11, 5, 1))
    bubble, saturate = NAMES.index("bubble"), NAMES.index("saturate")
    named[bubble, 4] = [1, 0, 0, 0]  # accuracy 1/2, balanced (2/3 + 0) / 2
    named[saturate, :, 0] = 1  # accuracy 3/4, balanced (2/3 + 1) / 2, at every severity
    entry = evaluate_medmnist_c(labels, named, ["a", "b", "never seen"], resamples=500, seed=0)
    rows = {row.corruption: row for row in entry.corruptions}
    assert list(rows) == NAMES
    assert rows["pixelate"].accuracy == [1.0] * 5
    assert rows["pixelate"].balanced_error == 0.0
    assert rows["bubble"].accuracy == [1, 1, 1, 1, 0.5]
    assert rows["bubble"].balanced_accuracy[4] == pytest.approx(1 / 3)
    assert rows["bubble"].balanced_error == pytest.approx((2 / 3) / 5)
    assert rows["bubble"].balanced_error_to_alexnet == pytest.approx((2 / 3) / 5 / 0.1290)
    assert rows["saturate"].balanced_error == pytest.approx(1 / 6)
    assert entry.balanced_error == pytest.approx((2 / 15 + 1 / 6) / 11)
    ratios = (2 / 15 / 0.1290 + 1 / 6 / ALEXNET_BALANCED_ERROR["saturate"]) / 11
    assert entry.balanced_error_to_alexnet == pytest.approx(ratios)
    assert entry.accuracy == pytest.approx(1 - (2 + 5) / (55 * 4))
    assert entry.balanced_accuracy == pytest.approx(1 - entry.balanced_error)
    low, high = entry.intervals["accuracy"]
    assert low < entry.accuracy < high <= 1.0
    assert entry.worst_corruption == "saturate"
    recalls = {row.name: row.recall for row in entry.per_class}
    assert recalls == pytest.approx({"a": 1 - 6 / (55 * 3), "b": 54 / 55, "never seen": 0})
    assert entry.worst_class == "a"
    assert entry.num_examples == 4
    json.dumps(entry.model_dump(), allow_nan=False)


def test_the_interval_is_over_images_not_over_their_corruptions() -> None:
    """One image in four that is always wrong leaves as much doubt as four clean images would."""
    labels = np.array([0, 0, 0, 1])
    named = np.tile([0, 0, 0, 0], (11, 5, 1))
    entry = evaluate_medmnist_c(labels, named, ["a", "b"], resamples=500, seed=0)
    low, high = entry.intervals["accuracy"]
    assert low <= 0.5
    assert high == pytest.approx(1.0)
