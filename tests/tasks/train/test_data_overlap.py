"""What a model has learnt from already: through the models it began from, or is made of."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.facts import augment_facts
from helpers.networks import TWO_LAYERS
from helpers.pictures import Cell, colour_cells, ingested, inputs, put_shards
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.report.notes import note
from hemaflow.tasks.train.config import ResolvedTrainConfig
from hemaflow.tasks.train.data_overlap import data_overlap
from hemaflow.tasks.train.stage import run

CELLS = colour_cells("cell", 36)


def data(store: LocalStore, name: str, train: list[Cell], val: list[Cell], test: list[Cell]) -> Manifest:
    splits = {"train": train, "val": val, "test": test}
    counts = {split: [len(held[label::3]) for label in range(3)] for split, held in splits.items()}
    return ingested(store, name, splits, class_counts=counts)


def train(store: LocalStore, ingest: Manifest, **changes: Any) -> Manifest:
    augment = Draft(store, inputs("augment"))
    put_shards(augment, "train", 24)
    shards = augment.commit(**augment_facts(24))
    untrained = {"backbone": TWO_LAYERS, "head_units": (8,), "fine_tuning": {"epochs": 0}}
    config = ResolvedTrainConfig.model_validate(changes if "ensemble_of" in changes else untrained | changes)
    parents = Parents(store, {"ingest": ingest, "augment": shards})
    document = config.model_dump(mode="json") | {"data": ingest.digest}
    return run(parents, config, Draft(store, inputs("train", config=document)))


def begun_from(made: Manifest) -> dict[str, Any]:
    return {
        "initial_weights": f"train:{made.key}",
        "initial_weights_sha256": made.object("model.keras").sha256,
        "initial_classes": made.facts["classes"],
    }


@pytest.mark.slow
@pytest.mark.usefixtures("two_layers")
def test_images_that_came_through_other_runs_are_counted(store: LocalStore) -> None:
    one = data(store, "one", CELLS[:24], CELLS[24:30], CELLS[30:])
    shifted = data(store, "shifted", CELLS[12:], CELLS[:4], CELLS[4:12])
    first = train(store, one)
    assert first.facts["data_overlap"] == {}
    same = train(store, one, seed=1, **begun_from(first))
    assert same.facts["data_overlap"] == {}
    other = train(store, shifted, **begun_from(first))
    assert other.facts["data_overlap"] == {"val": 4, "test": 8}
    # What goes on from the second has learnt from the first's images too, which are not in its own data.
    third = data(store, "third", CELLS[24:], CELLS[12:18], CELLS[4:6] + CELLS[30:])
    again = train(store, third, **begun_from(other))
    assert again.facts["trained_on"] == [third.digest, shifted.digest, one.digest]
    assert again.facts["data_overlap"] == {"val": 6, "test": 8}
    averaged = train(
        store,
        shifted,
        ensemble_of=(f"train:{first.key}", f"train:{other.key}"),
        ensemble_sha256=(first.object("model.keras").sha256, other.object("model.keras").sha256),
    )
    assert averaged.facts["data_overlap"] == {"val": 4, "test": 8}


def test_what_cannot_be_told_is_said_to_be_unknown(store: LocalStore) -> None:
    own = data(store, "own", CELLS[:24], CELLS[24:30], CELLS[30:])
    small = colour_cells("small", 12, size=16)
    of_another_size = data(store, "small", small[:6], small[6:9], small[9:])
    for digests in ([own.digest, "0" * 64], [own.digest, of_another_size.digest]):
        assert data_overlap(store, own, digests) == {"val": None, "test": None}
    assert data_overlap(store, own, [own.digest]) == {}


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, ""),
        ({"test": 0}, ""),
        ({"test": 5}, "trained on 5 of"),
        ({"test": None}, "may have been trained on"),
    ],
)
def test_a_reader_learns_of_overlap(counts: dict[str, int | None], said: str) -> None:
    found = note(counts, "test")
    assert bool(found) == bool(said)
    assert said in found
