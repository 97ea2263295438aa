"""The search for views: what it finds, what it leaves, and that it never costs an image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.view_search import choose

OPTIONS = {"max_views": 8, "resamples": 2000, "seed": 0}
VIEWS = ("identity", "flip-horizontal", "rotate-90", "crop-0.8")


def answers(named: list[int], sure: float = 0.9, num_classes: int = 3) -> NDArray[np.float32]:
    """Return probabilities that name these classes."""
    rest = (1 - sure) / (num_classes - 1)
    return np.where(np.eye(num_classes)[named] > 0, sure, rest).astype(np.float32)


def wrong(labels: NDArray[np.int64], rows: range) -> list[int]:
    """Return the labels with those of some rows named wrong."""
    return [(label + 1) % 3 if row in rows else int(label) for row, label in enumerate(labels)]


LABELS = np.arange(200) % 3


def test_a_view_that_helps_in_every_condition_is_kept() -> None:
    image = answers(wrong(LABELS, range(40)), 0.5)  # not sure of anything, a fifth wrong
    flipped = answers(wrong(LABELS, range(10)), 0.9)
    views = {"identity": image, "flip-horizontal": flipped}
    choice = choose(LABELS, {"clean": views, "heavy": views}, **OPTIONS)
    assert choice.views == ("identity", "flip-horizontal")
    assert choice.gain == pytest.approx(0.15)
    assert choice.interval[0] > 0
    assert [step.accuracy for step in choice.steps] == [
        {"clean": 0.8, "heavy": 0.8},
        {"clean": 0.95, "heavy": 0.95},
    ]
    assert choice.document()["times_slower"] == 2


def test_a_view_that_helps_one_condition_at_the_cost_of_another_is_not() -> None:
    image = answers(wrong(LABELS, range(40)), 0.5)
    better, worse = answers(list(LABELS)), answers(wrong(LABELS, range(50)))
    found = {
        "clean": {"identity": image, "crop-0.8": worse},
        "heavy": {"identity": image, "crop-0.8": better},
    }
    assert choose(LABELS, found, **OPTIONS).views == ("identity",)


def test_a_gain_that_chance_explains_is_not_kept_but_shown() -> None:
    image = answers(wrong(LABELS, range(2)), 0.5)
    flipped = answers(wrong(LABELS, range(1)))
    choice = choose(LABELS, {"clean": {"identity": image, "flip-horizontal": flipped}}, **OPTIONS)
    assert choice.views == ("identity",)
    assert choice.steps[-1].view == "flip-horizontal"
    assert choice.interval[0] <= 0


def test_no_more_views_than_allowed() -> None:
    image = answers(wrong(LABELS, range(60)), 0.5)
    others = {f"view{k}": answers(wrong(LABELS, range(60 - 10 * k)), 0.6) for k in range(1, 5)}
    found = {"clean": {"identity": image, **others}}
    assert len(choose(LABELS, found, max_views=2, resamples=500, seed=0).steps) == 2


@given(st.data())
def test_it_never_costs_an_image_in_any_condition(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = data.draw(st.integers(1, 60))
    labels = rng.integers(0, 3, size)
    found = {
        condition: {view: rng.dirichlet(np.ones(3), size).astype(np.float32) for view in VIEWS}
        for condition in ("clean", "heavy")
    }
    choice = choose(labels, found, max_views=4, resamples=100, seed=0)
    for views in found.values():
        total = np.zeros((size, 3))
        for view in choice.views:
            total += views[view].astype(np.float64)
        averaged = (total / len(choice.views)).astype(np.float32)  # as tasks.views.predict does it
        assert (averaged.argmax(1) == labels).sum() >= (views["identity"].argmax(1) == labels).sum()


def test_conditions_with_other_views_are_refused() -> None:
    image = answers(list(LABELS))
    with pytest.raises(ValueError, match="same views in every condition"):
        choose(
            LABELS, {"clean": {"identity": image}, "heavy": {"identity": image, "crop-0.8": image}}, **OPTIONS
        )
    with pytest.raises(ValueError, match="same views"):
        choose(LABELS, {}, **OPTIONS)
