from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.pictures import SIZE, colour_cells, evaluated, ingested, inputs, trained
from hemaflow.infra.errors import DataError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.evaluate.metrics import paired_interval
from hemaflow.tasks.review.judge import PARENTS, JudgeConfig, decide, mcnemar_p, run

BLUE_GREEN_RED, CLASSES = (2, 1, 0), ["blue", "green", "red"]
LEARNT = colour_cells("learnt", 9)


def judged(store: LocalStore, parents: dict[str, Manifest], **config: Any) -> tuple[Manifest, dict[str, Any]]:
    assert set(parents) == set(PARENTS)
    draft = Draft(store, inputs("judge", keys=[m.key for m in parents.values()], **config))
    manifest = run(Parents(store, parents), JudgeConfig(**config), draft)
    verdict: dict[str, Any] = json.loads(manifest.read(store, "verdict.json"))
    return manifest, verdict


def pair(store: LocalStore, **replaced: Manifest) -> dict[str, Manifest]:
    """Champion and challenger that name every colour rightly, on one reference set of 90 pictures."""
    test = colour_cells("reference", 90)
    made = {
        "champion_ingest": ingested(store, "champion", {"train": LEARNT, "test": test}),
        "ingest": ingested(store, "new", {"train": LEARNT, "test": test}, reference="ab"),
        **{f"{side}train": trained(store, "model", BLUE_GREEN_RED) for side in ("champion_", "")},
        **{f"{side}evaluate": evaluated(store, "plain") for side in ("champion_", "")},
    }
    return made | replaced


def answers(wins: int, losses: int, both: int, neither: int) -> tuple[Any, Any]:
    """The answers of champion and challenger to so many pictures."""
    champion = [False] * wins + [True] * losses + [True] * both + [False] * neither
    challenger = [True] * wins + [False] * losses + [True] * both + [False] * neither
    return np.array(champion), np.array(challenger)


def decided(wins: int, losses: int, both: int, neither: int, **config: Any) -> dict[str, Any]:
    champion, challenger = answers(wins, losses, both, neither)
    labels = np.zeros(len(champion), np.int64)
    return decide(labels, champion, challenger, ["only"], JudgeConfig(**config)).document()


@pytest.mark.slow
def test_a_model_is_no_worse_than_itself(store: LocalStore) -> None:
    manifest, verdict = judged(store, pair(store))
    assert verdict["accuracy"]["difference"] == 0.0
    assert verdict["accuracy"]["interval"] == [0.0, 0.0]
    assert verdict["accuracy"]["champion"] == verdict["accuracy"]["challenger"] == 1.0
    assert verdict["mcnemar"] == {"only_challenger": 0, "only_champion": 0, "p": 1.0}
    assert manifest.facts["promote"] is True
    assert manifest.facts["reason"] == (
        "accuracy +0.000 (95 % interval +0.000 to +0.000), worst class blue +0.000"
    )
    assert manifest.facts["num_images"] == 90
    assert verdict["notes"] == ["90 reference images are few: a loss of 0.033 of accuracy may go unnoticed."]


@pytest.mark.slow
def test_a_worse_challenger_is_not_promoted_and_the_verdict_says_why(store: LocalStore) -> None:
    confused = trained(store, "confused", (1, 2, 0))  # blue and green taken for each other
    manifest, verdict = judged(store, pair(store, train=confused))
    assert manifest.facts["promote"] is False
    assert verdict["accuracy"]["difference"] == pytest.approx(-2 / 3)
    assert verdict["mcnemar"]["only_champion"] == 60
    assert verdict["worst_class"] == {"class": "blue", "difference": -1.0, "num_images": 30}
    for part in (
        "accuracy −0.667",
        "the interval is not all above −0.005",
        "blue loses 1.000 of its recall, more than 0.030",
        "green loses 1.000",
    ):
        assert part in manifest.facts["reason"]
    assert "red loses" not in manifest.facts["reason"]
    better = judged(store, pair(store, champion_train=confused))[0]
    assert better.facts["promote"] is True
    assert better.facts["accuracy"]["difference"] == pytest.approx(2 / 3)


@pytest.mark.slow
def test_classes_are_matched_by_name(store: LocalStore) -> None:
    own = ingested(store, "other order", {"train": LEARNT}, ["red", "blue", "green"])
    model = trained(store, "other order", (0, 2, 1))
    _, verdict = judged(store, pair(store, champion_ingest=own, champion_train=model))
    assert verdict["accuracy"]["champion"] == 1.0
    assert verdict["mcnemar"]["p"] == 1.0


@pytest.mark.slow
def test_a_class_that_the_champion_does_not_know_is_missed_by_it(store: LocalStore) -> None:
    own = ingested(store, "two", {"train": LEARNT[:2]}, ["blue", "green"])
    model = trained(store, "two", (2, 1))
    _, verdict = judged(store, pair(store, champion_ingest=own, champion_train=model))
    rows = {row["class"]: (row["champion_right"], row["challenger_right"]) for row in verdict["per_class"]}
    assert rows == {"blue": (30, 30), "green": (30, 30), "red": (0, 30)}
    assert "The champion does not know red: its 30 images count as wrong for it." in verdict["notes"]
    gone = ingested(
        store, "fewer", {"train": LEARNT[:2], "test": colour_cells("reference", 60, (2, 1))}, CLASSES[:2]
    )
    _, verdict = judged(store, pair(store, ingest=gone, train=model))
    assert verdict["accuracy"]["champion"] == 1.0  # that it knows red too is no fault


@pytest.mark.slow
def test_each_model_gets_pictures_of_its_size(store: LocalStore) -> None:
    small = [cell._replace(image=cell.image[:16, :16]) for cell in LEARNT]
    parents = pair(
        store,
        champion_ingest=ingested(store, "small", {"train": small}),
        champion_train=trained(store, "small", BLUE_GREEN_RED, 16),
    )
    _, verdict = judged(store, parents)
    assert verdict["accuracy"]["champion"] == 1.0
    assert verdict["models"]["champion"]["image_size_pixels"] == 16
    assert any(f"resized from {SIZE} to its 16 pixels" in note for note in verdict["notes"])


@pytest.mark.slow
def test_each_model_is_asked_with_the_views_of_its_evaluation(store: LocalStore) -> None:
    """The right halves are of another colour: who is shown the mirror image is wrong."""
    test = colour_cells("halves", 60)
    for cell in test:
        cell.image[:, SIZE // 2 :] = np.roll(cell.image[:, SIZE // 2 :], 1, axis=-1)
    both = ingested(store, "halves", {"train": LEARNT, "test": test}, reference="ab")
    mirrored = evaluated(store, "mirrored", ["flip-horizontal"])
    _, verdict = judged(store, pair(store, ingest=both, champion_evaluate=mirrored))
    assert (verdict["accuracy"]["champion"], verdict["accuracy"]["challenger"]) == (0.0, 1.0)
    assert verdict["models"]["champion"]["views"] == ["flip-horizontal"]


@pytest.mark.slow
def test_who_learnt_from_the_reference_is_named(store: LocalStore) -> None:
    test = colour_cells("reference", 90)
    known = ingested(store, "cheat", {"train": [*LEARNT, *test[:7]]})
    _, verdict = judged(store, pair(store, champion_ingest=known))
    assert "The champion was trained on 7 of the reference images: it has an advantage." in verdict["notes"]
    own = ingested(store, "no reference", {"train": LEARNT, "test": test})
    _, verdict = judged(store, pair(store, ingest=own))
    assert any("not a fixed one" in note for note in verdict["notes"])


@pytest.mark.slow
def test_nothing_can_be_judged_on_an_empty_set(store: LocalStore) -> None:
    with pytest.raises(DataError, match="nothing to judge on"):
        judged(store, pair(store, ingest=ingested(store, "empty", {"train": LEARNT})))


@pytest.mark.slow
def test_a_verdict_is_the_same_each_time(store: LocalStore, tmp_path: Any) -> None:
    confused = (1, 2, 0)
    first = judged(store, pair(store, train=trained(store, "confused", confused)))[0]
    other = LocalStore(tmp_path / "other")
    again = judged(other, pair(other, train=trained(other, "confused", confused)))[0]
    assert again.facts == first.facts


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (0, 5, 2 / 2**5),
        (1, 6, 2 * (1 + 7) / 2**7),
        (2, 2, 1.0),
        (3, 9, 2 * (1 + 12 + 66 + 220) / 2**12),
    ],
)
def test_mcnemar_by_hand(wins: int, losses: int, p: float) -> None:
    assert mcnemar_p(wins, losses) == pytest.approx(p)
    assert mcnemar_p(losses, wins) == pytest.approx(p)


def test_the_interval_is_that_of_drawing_pictures_with_both_answers() -> None:
    champion, challenger = answers(30, 10, 900, 60)
    rng = np.random.default_rng(1)
    gained = challenger.astype(int) - champion.astype(int)
    drawn = gained[rng.integers(0, 1000, (4000, 1000))].mean(1)
    interval = paired_interval(30, 10, 1000, resamples=10_000, seed=0)
    np.testing.assert_allclose(interval, np.quantile(drawn, [0.025, 0.975]), atol=0.0015)
    # 0.02 ± 1.96 · √((0.04 − 0.02²) / 1000)
    np.testing.assert_allclose(interval, [0.0077, 0.0323], atol=0.0015)


def test_the_lower_bound_decides() -> None:
    assert decided(5, 5, 1990, 0)["promote"] is True  # ± 0.003
    assert decided(40, 40, 920, 0)["promote"] is False  # ± 0.018
    assert decided(40, 40, 920, 0, delta=0.02)["promote"] is True
    # A bound of exactly −delta is not above it.
    assert decided(0, 100, 0, 0, delta=1.0, epsilon=1.0)["promote"] is False


def test_a_class_that_loses_too_much_keeps_the_champion() -> None:
    labels = np.repeat([0, 1], [4000, 100])
    champion = np.ones(4100, bool)
    for lost, promoted in ((3, True), (4, False)):
        challenger = champion.copy()
        challenger[4000 : 4000 + lost] = False
        verdict = decide(labels, champion, challenger, ["a", "b"], JudgeConfig()).document()
        assert verdict["promote"] is promoted
        assert verdict["worst_class"] == {"class": "b", "difference": -lost / 100, "num_images": 100}
    assert verdict["reason"].endswith("; b loses 0.040 of its recall, more than 0.030")


def test_a_class_of_few_pictures_is_not_judged_by_its_recall() -> None:
    labels = np.repeat([0, 1], [4000, 19])
    champion = np.ones(4019, bool)
    challenger = champion.copy()
    challenger[4000:4002] = False
    verdict = decide(labels, champion, challenger, ["a", "b"], JudgeConfig()).document()
    assert verdict["promote"] is True
    assert verdict["worst_class"]["class"] == "a"
    assert verdict["notes"] == ["Not judged by recall, fewer than 20 images: b (19)."]
    stricter = JudgeConfig(min_class_images=19)
    assert not decide(labels, champion, challenger, ["a", "b"], stricter).promote


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_the_rule_is_the_rule(pictures: list[tuple[int, bool, bool]]) -> None:
    labels, champion, challenger = (np.array(column) for column in zip(*pictures, strict=True))
    config = JudgeConfig(bootstrap_resamples=200, min_class_images=5)
    verdict = decide(labels, champion, challenger, ["a", "b", "c"], config).document()
    mirrored = decide(labels, challenger, champion, ["a", "b", "c"], config).document()
    low, high = verdict["accuracy"]["interval"]
    difference = verdict["accuracy"]["difference"]
    assert difference == pytest.approx(challenger.mean() - champion.mean())
    assert difference == -mirrored["accuracy"]["difference"]
    assert verdict["mcnemar"]["p"] == mirrored["mcnemar"]["p"]
    assert low - 1e-9 <= high
    lost = [
        champion[labels == k].mean() - challenger[labels == k].mean()
        for k in range(3)
        if (labels == k).sum() >= 5
    ]
    assert verdict["promote"] == (low > -config.delta and all(loss <= config.epsilon for loss in lost))
    json.dumps(verdict, allow_nan=False)
