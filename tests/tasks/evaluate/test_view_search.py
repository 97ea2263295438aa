"""The search for views: what it finds, what it leaves, and that it never costs an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemaflow.tasks.evaluate.view_search import Answers, Choice, Condition, choose, keep_harmless
from hemaflow.tasks.inference.views import average

SAMPLING = {"resamples": 2000, "seed": 0}
OPTIONS = {"max_views": 8, **SAMPLING}
VIEWS = ("identity", "flip-horizontal", "rotate-90", "crop-0.8")


def answers(named: list[int], sure: float = 0.9, num_classes: int = 3) -> NDArray[np.float32]:
    """Return probabilities that name these classes."""
    rest = (1 - sure) / (num_classes - 1)
    return np.where(np.eye(num_classes)[named] > 0, sure, rest).astype(np.float32)


def wrong(labels: NDArray[np.int64], rows: range) -> list[int]:
    """Return the labels with those of some rows named wrong."""
    return [(label + 1) % 3 if row in rows else int(label) for row, label in enumerate(labels)]


LABELS = np.arange(200) % 3


def conditions(**answers_of: Answers) -> dict[str, Condition]:
    """Return conditions of the same 200 images."""
    return {name: Condition(LABELS, given) for name, given in answers_of.items()}


def accuracy(condition: Condition, views: tuple[str, ...]) -> float:
    """Return what a submission that averages over these views would have."""
    averaged = average([condition.answers[view] for view in views])
    return float((averaged.argmax(1) == condition.labels).mean())


def random_conditions(data: st.DataObject) -> dict[str, Condition]:
    """Draw answers at random; the spoiled images may be fewer than the clean ones."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    found = {}
    for name in data.draw(st.sampled_from([("clean",), ("clean", "heavy_mix")])):
        size = data.draw(st.integers(0, 60))
        given = {view: rng.dirichlet(np.ones(3), size).astype(np.float32) for view in VIEWS}
        found[name] = Condition(rng.integers(0, 3, size), given)
    return found


def test_a_view_that_helps_in_every_condition_is_kept() -> None:
    image = answers(wrong(LABELS, range(40)), 0.5)  # not sure of anything, a fifth wrong
    flipped = answers(wrong(LABELS, range(10)), 0.9)
    views = {"identity": image, "flip-horizontal": flipped}
    choice = choose(conditions(clean=views, heavy_mix=views), **OPTIONS)
    assert choice.views == ("identity", "flip-horizontal")
    assert choice.gain == pytest.approx(0.15)
    assert choice.interval[0] > 0
    assert [step.accuracy for step in choice.steps] == [
        {"clean": 0.8, "heavy_mix": 0.8},
        {"clean": 0.95, "heavy_mix": 0.95},
    ]
    assert choice.entry("search").times_slower == 2


def test_a_view_that_helps_one_condition_at_the_cost_of_another_is_not() -> None:
    image = answers(wrong(LABELS, range(40)), 0.5)
    better, worse = answers(list(LABELS)), answers(wrong(LABELS, range(50)))
    found = conditions(
        clean={"identity": image, "crop-0.8": worse}, heavy_mix={"identity": image, "crop-0.8": better}
    )
    choice = choose(found, **OPTIONS)
    assert choice.views == ("identity",)
    assert choice.reason == "no view gained anything on val"


def test_a_gain_that_chance_explains_is_not_kept_but_shown() -> None:
    image = answers(wrong(LABELS, range(2)), 0.5)
    flipped = answers(wrong(LABELS, range(1)))
    choice = choose(conditions(clean={"identity": image, "flip-horizontal": flipped}), **OPTIONS)
    assert choice.views == ("identity",)
    assert choice.steps[-1].view == "flip-horizontal"
    assert choice.interval[0] <= 0
    assert choice.reason == "what they gained on val may be chance"


def test_no_more_views_than_allowed() -> None:
    image = answers(wrong(LABELS, range(60)), 0.5)
    others = {f"view{k}": answers(wrong(LABELS, range(60 - 10 * k)), 0.6) for k in range(1, 5)}
    found = conditions(clean={"identity": image, **others})
    assert len(choose(found, max_views=2, resamples=500, seed=0).steps) == 2


def test_conditions_may_have_other_numbers_of_images() -> None:
    clean = {
        "identity": answers(wrong(LABELS, range(20)), 0.5),
        "crop-0.8": answers(wrong(LABELS, range(5))),
    }
    heavy = {view: given[::4] for view, given in clean.items()}
    found = {"clean": Condition(LABELS, clean), "heavy_mix": Condition(LABELS[::4], heavy)}
    choice = choose(found, **OPTIONS)
    assert choice.views == ("identity", "crop-0.8")
    assert choice.gain == pytest.approx((15 + 3) / 250)


@given(st.data())
def test_a_search_never_costs_an_image_in_any_condition(data: st.DataObject) -> None:
    found = random_conditions(data)
    choice = choose(found, max_views=4, resamples=100, seed=0)
    for condition in found.values():
        if len(condition.labels):
            assert accuracy(condition, choice.views) >= accuracy(condition, ("identity",))


@given(st.data(), st.lists(st.sampled_from(VIEWS), min_size=1, max_size=5))
def test_views_that_were_asked_for_never_cost_an_image_either(data: st.DataObject, views: list[str]) -> None:
    found = random_conditions(data)
    choice = keep_harmless(found, views, resamples=100, seed=0)
    costs = []
    for condition in found.values():
        if len(condition.labels):
            alone = accuracy(condition, ("identity",))
            assert accuracy(condition, choice.views) >= alone
            costs.append(accuracy(condition, tuple(views)) < alone)
    assert choice.views == (("identity",) if any(costs) else tuple(views))
    assert bool(choice.reason) == any(costs)


def test_views_that_were_asked_for_are_kept_even_where_they_bring_nothing() -> None:
    image = answers(wrong(LABELS, range(40)), 0.5)
    choice = keep_harmless(
        conditions(clean={"identity": image, "rotate-90": image}), ("identity", "rotate-90"), **SAMPLING
    )
    assert choice.views == ("identity", "rotate-90")
    assert [step.view for step in choice.steps] == ["identity", "rotate-90"]
    assert (choice.gain, choice.reason) == (0, "")


def test_views_that_cost_an_image_are_not_kept_and_it_says_so() -> None:
    image, worse = answers(wrong(LABELS, range(40)), 0.5), answers(wrong(LABELS, range(43)))
    better = answers(list(LABELS))
    views = ("flip-horizontal", "rotate-90")
    found = conditions(
        clean={"identity": image, "flip-horizontal": image, "rotate-90": worse},
        heavy_mix={"identity": image, "flip-horizontal": image, "rotate-90": better},
    )
    choice = keep_harmless(found, views, **SAMPLING)
    assert choice.views == ("identity",)
    assert choice.reason == "averaged over them, fewer val images are right: 3 of 200 clean ones lost"
    assert [step.view for step in choice.steps] == ["identity", *views]
    assert choice.steps[-1].accuracy == {"clean": pytest.approx(0.785), "heavy_mix": 1.0}
    assert choice.gain == pytest.approx((40 - 3) / 400)


@pytest.mark.parametrize(
    "held", [lambda given: choose(given, **OPTIONS), lambda given: keep_harmless(given, VIEWS, **SAMPLING)]
)
def test_conditions_with_other_views_are_refused(held: Callable[[dict[str, Condition]], Choice]) -> None:
    image = answers(list(LABELS))
    with pytest.raises(ValueError, match="same views in every condition"):
        held(conditions(clean={"identity": image}, heavy_mix={"identity": image, "crop-0.8": image}))
    with pytest.raises(ValueError, match="same views"):
        held({})
