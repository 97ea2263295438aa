from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from helpers.pictures import CLASSES, SIZE, Cell, colour_cells, ingested, inputs, trained
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.review.drift import (
    PARENTS,
    STATISTICS,
    DriftConfig,
    compare_shares,
    compare_values,
    corrected,
    holm,
    measure,
    run,
)

KNOWN = {"train": colour_cells("train", 120), "val": colour_cells("val", 60), "test": colour_cells("test", 9)}


def drift(
    store: LocalStore, new: Manifest, own: Manifest | None = None, **config: Any
) -> tuple[Manifest, dict[str, Any]]:
    manifests = {
        "champion_ingest": own or ingested(store, "champion", KNOWN),
        "champion_train": trained(store, "model", (2, 1, 0)),
        "ingest": new,
    }
    assert set(manifests) == set(PARENTS)
    draft = Draft(store, inputs("drift", of=new.key, own=own.key if own else "", **config))
    manifest = run(Parents(store, manifests), DriftConfig(**config), draft)
    document: dict[str, Any] = json.loads(manifest.read(store, "drift.json"))
    return manifest, document


def arriving(store: LocalStore, cells: Sequence[Cell], classes: Sequence[str] = CLASSES) -> Manifest:
    """The data of the champion with new pictures among train and val."""
    third = len(cells) // 3
    splits = {
        "train": [*KNOWN["train"], *cells[third:]],
        "val": [*KNOWN["val"], *cells[:third]],
        "test": KNOWN["test"],
    }
    return ingested(store, f"{cells[0].id} {len(cells)}", splits, classes)


@pytest.mark.slow
def test_more_of_the_same_is_no_drift(store: LocalStore) -> None:
    manifest, document = drift(store, arriving(store, colour_cells("new", 90)))
    assert manifest.facts == {"num_new_images": 90, "tested": True, "drifted": [], "notes": []}
    assert [row["name"] for row in document["rows"]] == [
        "labels",
        *STATISTICS,
        "predicted classes",
        "top probability",
    ]
    for row in document["rows"]:
        assert row["p"] <= row["p_corrected"] <= 1
        assert row["test"] == ("Kolmogorov-Smirnov" if isinstance(row["now"], float) else "chi-squared")
    assert document["rows"][0]["before"] == dict.fromkeys(CLASSES, pytest.approx(1 / 3, abs=1e-4))


@pytest.mark.slow
def test_a_class_that_comes_more_often_is_drift_of_labels_and_predictions(store: LocalStore) -> None:
    mostly_blue = [cell for cell in colour_cells("new", 240) if cell.label == 0 or int(cell.id[3:]) < 30]
    manifest, document = drift(store, arriving(store, mostly_blue))
    assert {"labels", "predicted classes"} <= set(manifest.facts["drifted"])
    assert "sharpness" not in manifest.facts["drifted"]
    labels = document["rows"][0]
    assert labels["now"]["blue"] == 0.8
    assert labels["effect"] > 0.3


@pytest.mark.slow
def test_another_staining_is_drift_of_colour(store: LocalStore) -> None:
    stained = [
        cell._replace(image=cell.image + np.array([40, 0, 0], np.uint8)) for cell in colour_cells("new", 90)
    ]
    manifest, document = drift(store, arriving(store, stained))
    drifted = set(manifest.facts["drifted"])
    assert "red mean" in drifted
    assert not drifted & {"labels", "green mean", "blue mean", "green deviation", "sharpness"}
    row = next(row for row in document["rows"] if row["name"] == "red mean")
    assert row["now"] > row["before"] + 20


@pytest.mark.slow
def test_pictures_out_of_focus_are_drift_of_sharpness(store: LocalStore) -> None:
    blurred = [
        cell._replace(image=((cell.image.astype(int) + np.roll(cell.image, 1, axis=1)) // 2).astype(np.uint8))
        for cell in colour_cells("new", 90)
    ]
    assert "sharpness" in drift(store, arriving(store, blurred))[0].facts["drifted"]


@pytest.mark.slow
def test_only_pictures_that_the_champion_has_in_no_split_are_new(store: LocalStore) -> None:
    moved = {"train": [*KNOWN["val"], *KNOWN["test"]], "val": KNOWN["train"][:30]}
    again = [cell._replace(id=f"again {cell.id}") for cell in moved["train"]]
    new = colour_cells("new", 4)
    manifest, document = drift(store, ingested(store, "moved", {**moved, "train": [*again, *new]}))
    assert manifest.facts["num_new_images"] == 4
    assert manifest.facts["notes"] == ["4 new images: too few to test, fewer than 30."]
    assert document["rows"] == []


@pytest.mark.slow
def test_nothing_new_is_too_little_to_test(store: LocalStore) -> None:
    own = ingested(store, "champion", KNOWN)
    manifest, _ = drift(store, own, own)
    assert manifest.facts["num_new_images"] == 0
    assert manifest.facts["tested"] is False


@pytest.mark.slow
def test_the_reference_is_not_new(store: LocalStore) -> None:
    new = ingested(store, "reference", {**KNOWN, "test": colour_cells("other", 90)})
    assert drift(store, new)[0].facts["num_new_images"] == 0


@pytest.mark.slow
def test_a_champion_without_val_is_not_asked(store: LocalStore) -> None:
    own = ingested(store, "no val", {"train": KNOWN["train"], "val": KNOWN["val"][:3]})
    manifest, document = drift(store, arriving(store, colour_cells("new", 90)), own)
    assert [row["name"] for row in document["rows"]] == ["labels", *STATISTICS]
    assert "val split has 3 images" in manifest.facts["notes"][0]


@pytest.mark.slow
def test_pictures_of_another_size_are_brought_to_the_champions(store: LocalStore) -> None:
    large = [
        cell._replace(image=np.repeat(np.repeat(cell.image, 2, 0), 2, 1)) for cell in colour_cells("new", 60)
    ]
    assert large[0].image.shape[0] == 2 * SIZE
    manifest, document = drift(store, ingested(store, "large", {"train": large}))
    assert "were not fitted like" in manifest.facts["notes"][0]
    assert not {"labels", "red mean", "predicted classes"} & set(manifest.facts["drifted"])
    assert len(document["rows"]) == 10


@pytest.mark.slow
def test_a_new_class_is_drift(store: LocalStore) -> None:
    violet = [Cell(f"violet{k}", 3, cell.image) for k, cell in enumerate(colour_cells("new", 60))]
    new = arriving(store, violet, [*CLASSES, "violet"])
    manifest, document = drift(store, new)
    assert manifest.facts["drifted"] == ["labels"]
    assert document["rows"][0]["effect"] == pytest.approx(1.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.001]) == pytest.approx([0.5, 0.002])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_cramers_v_by_hand() -> None:
    from scipy.stats.contingency import association

    before, now = ["a"] * 50 + ["b"] * 50, ["a"] * 75 + ["b"] * 25
    found = compare_shares("labels", before, now, 0.1)
    assert found.effect == pytest.approx(np.sqrt((0.0625 / 1.25 + 0.0625 / 0.75) / 2))
    assert found.effect == pytest.approx(association(np.array([[50, 50], [75, 25]]), correction=False))
    assert found.statistic == pytest.approx(13.3333, abs=1e-4)  # Σ (observed − expected)² / expected
    # Ten times as many before: the same shares, the same effect.
    assert compare_shares("labels", before * 10, now, 0.1).effect == pytest.approx(found.effect)
    assert compare_shares("labels", ["a"] * 40, ["b"] * 40, 0.1).effect == pytest.approx(1.0)
    same = compare_shares("labels", ["a"] * 40, ["a"] * 40, 0.1)
    assert (same.effect, same.p) == (0.0, 1.0)


def test_rare_classes_are_counted_together() -> None:
    """Another picture of a class that comes once in two thousand is a surprise of 1 in 10,000, alone."""
    before, now = ["common"] * 2000 + ["rare"], ["common"] * 49 + ["rare"]
    assert compare_shares("labels", before, now, 0.1).p == 1.0
    several = [*before, *(f"rare {k}" for k in range(40))], ["common"] * 49 + ["rare 3"]
    found = compare_shares("labels", *several, min_effect=0.1)
    # In two columns: 41 of 2041 before, 1 of 50 now.
    assert found.statistic == pytest.approx(0.0, abs=0.01)
    often = ["common"] * 45 + [f"rare {k}" for k in range(5)]
    assert compare_shares("labels", several[0], often, 0.1).p < 0.001


def test_what_is_significant_and_small_is_no_drift() -> None:
    rng = np.random.default_rng(0)
    before, slightly, clearly = (
        rng.normal(0, 1, 50_000),
        rng.normal(0.1, 1, 50_000),
        rng.normal(0.5, 1, 50_000),
    )
    rows = corrected(
        [compare_values("small", before, slightly, 0.1), compare_values("large", before, clearly, 0.1)], 0.01
    )
    assert rows[0].p_corrected < 1e-10
    assert [row.drifted for row in rows] == [False, True]


def test_what_is_large_and_not_significant_is_no_drift() -> None:
    found = compare_values("few", np.arange(8.0), np.arange(8.0) + 2, 0.1)
    assert found.effect == 0.25
    assert corrected([found], 0.01)[0].drifted is False


def test_measures_by_hand() -> None:
    images = np.zeros((2, 6, 6, 3), np.uint8)
    images[0] = (10, 20, 30)
    images[1, ::2, ::2] = images[1, 1::2, 1::2] = 100  # a chessboard
    flat, board = measure(images)
    assert flat == pytest.approx([10, 20, 30, 0, 0, 0, 0], abs=1e-4)
    # Every neighbour of a white field is black: the Laplacian is ±400, half of each.
    assert board == pytest.approx([50, 50, 50, 50, 50, 50, 400**2], rel=1e-5)
