from __future__ import annotations

import json

import pytest

from helpers.results import run
from hemaflow.flows.engine.engine import Pins
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.record import KnownRuns, RunRecord, StageRecord, new_run_id, runs
from hemaflow.infra.errors import UserError
from hemaflow.infra.results.manifest import load_manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.sources.kinds.sample import SampleSource


def record(run: str, store: LocalStore) -> RunRecord:
    made = RunRecord(run=run, started="2026-01-31T09:45:00+00:00", data="sample", recipe="demo")
    made.save(store)
    return made


def test_a_record_is_read_back_as_it_was_saved(store: LocalStore) -> None:
    made = record("20260131-094500-3f2a", store)
    made.stages.append(StageRecord(stage="train", key="ab", state="ran", reason="r", seconds=1.5))
    made.save(store)
    assert find_run(store) == made
    assert made.key("train") == "ab"
    assert made.key("submit") is None


def test_a_run_is_found_by_its_beginning_its_end_or_as_the_newest(store: LocalStore) -> None:
    old = record("20260131-094500-3f2a", store)
    new = record("20260201-094500-11bb", store)
    assert find_run(store) == new
    assert find_run(store, "3f2a") == old
    assert find_run(store, "20260131") == old
    assert runs(store) == [old, new]


def test_an_unknown_or_ambiguous_run_is_a_mistake(store: LocalStore) -> None:
    with pytest.raises(UserError, match="There are no runs"):
        find_run(store)
    record("20260131-094500-3f2a", store)
    record("20260131-094501-11bb", store)
    with pytest.raises(UserError, match="More than one run is called '20260131'"):
        find_run(store, "20260131")
    with pytest.raises(UserError, match="No run is called 'ffff'"):
        find_run(store, "ffff")


def test_a_record_says_what_content_its_data_had(store: LocalStore) -> None:
    made = run(store)
    assert made.source_sha256 == SampleSource().content_digest()
    found = load_manifest(store, "ingest", made.stages[0].key)
    assert found
    pinned = run(store, pins=Pins(made.run, {"ingest": found[0]}))
    assert pinned.source_sha256 == made.source_sha256


def test_a_record_of_an_earlier_version_is_read(store: LocalStore) -> None:
    made = record("20260131-094500-3f2a", store)
    earlier = made.model_dump(mode="json", exclude={"source_sha256", "verdict"})
    store.put(f"runs/{made.run}.json", json.dumps(earlier).encode())
    assert find_run(store) == made
    assert (made.source_sha256, made.verdict) == ("", {})


def test_ids_differ() -> None:
    ids = [new_run_id() for _ in range(50)]
    assert len(set(ids)) > 45


def test_times_are_estimated_from_the_same_data_and_from_nothing_else(store: LocalStore) -> None:
    took = [("demo", 2.0), ("demo", 4.0), ("demo", 60.0), ("laptop", 900.0)]
    for number, (recipe, seconds) in enumerate(took):
        stages = [
            StageRecord(stage=stage, key="ab", state="ran", reason="", seconds=seconds)
            for stage in ("ingest", "train")
        ]
        RunRecord(run=f"2026013{number}", started="", data="sample", recipe=recipe, stages=stages).save(store)
    known = KnownRuns.read(store)
    assert known.seconds("train", "demo", "sample") == 4.0
    assert known.seconds("train", "laptop", "sample") == 900.0
    assert known.seconds("train", "cnn", "sample") is None
    assert known.seconds("train", "demo", "cells.zip") is None
    assert known.seconds("ingest", "cnn", "sample") == 32.0
