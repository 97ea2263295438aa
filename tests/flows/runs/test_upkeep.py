from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from helpers.results import engine, run
from hemaflow.flows.engine.engine import all_reused
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.runs.upkeep import collect_garbage, verify
from hemaflow.infra.results.manifest import StoredObject
from hemaflow.infra.store.base import Store

NOW = -5.0
"""A grace that covers nothing, whatever the clocks say."""


def collect(store: Store, **arguments: Any) -> Any:
    return collect_garbage(store, **({"grace_seconds": NOW} | arguments))


def test_a_whole_store_has_no_garbage(any_store: Store) -> None:
    run(any_store)
    before = list(any_store.list(""))
    found = collect(any_store)
    assert (found.runs, found.results, found.objects, found.size_bytes) == ([], [], 0, 0)
    assert list(any_store.list("")) == before


def test_only_what_the_kept_runs_need_stays(any_store: Store) -> None:
    first = run(any_store)
    last = run(any_store, {"train": {"seed": 1}}, content=b"other")
    before = sum(entry.size_bytes for entry in any_store.entries(""))
    would = collect(any_store, keep_runs=1, dry_run=True)
    assert list(any_store.list("runs/")) == [f"runs/{record.run}.json" for record in (first, last)]
    did = collect(any_store, keep_runs=1)
    assert (did.runs, did.results, did.objects) == (would.runs, would.results, would.objects)
    assert did.runs == [first.run]
    assert sorted(result.split()[0] for result in did.results) == ["evaluate", "predict", "submit", "train"]
    after = sum(entry.size_bytes for entry in any_store.entries(""))
    assert before - after >= did.size_bytes > 0
    assert list(any_store.list("runs/")) == [f"runs/{last.run}.json"]
    assert all_reused(engine(any_store, {"train": {"seed": 1}}).plan())
    assert verify(any_store, deep=True)[0] == []
    assert "".join(d.state[2] for d in engine(any_store).plan()) == "uunnnn"  # reuse, run


def test_runs_go_by_age(any_store: Store) -> None:
    record = run(any_store)
    record.started = "2020-01-01T00:00:00+00:00"
    record.save(any_store)
    young = run(any_store, {"train": {"seed": 1}})
    assert collect(any_store, older_than_seconds=86400.0).runs == [record.run]
    assert list(any_store.list("runs/")) == [f"runs/{young.run}.json"]


def test_a_run_that_a_pointer_names_stays(any_store: Store) -> None:
    champion = run(any_store)
    run(any_store, {"train": {"seed": 1}})
    any_store.put("pointers/champion.json", json.dumps({"run": champion.run}).encode())
    assert collect(any_store, keep_runs=1).runs == []
    assert all_reused(engine(any_store).plan())


def test_what_was_written_lately_is_left_alone(any_store: Store) -> None:
    draft = engine(any_store).decide("ingest", {}).draft(any_store)
    draft.put("one", b"being written")
    draft.keep("checkpoint", b"x")
    assert collect(any_store, grace_seconds=60.0).objects == 0
    assert collect(any_store).objects == 2
    assert list(any_store.list("")) == []


def test_the_work_of_an_interrupted_run_is_kept_with_it(any_store: Store) -> None:
    own = engine(any_store)
    key = own.inputs("ingest", {}).key
    draft = own.decide("ingest", {}).draft(any_store)
    draft.keep("checkpoint", b"x")
    record = RunRecord(
        run="20260101-000000-aaaa", started="2026-01-01T00:00:00+00:00", data="sample", recipe="demo"
    )
    record.status, record.needs = "interrupted", {"ingest": key}
    record.save(any_store)
    assert collect(any_store).objects == 0
    assert draft.kept("checkpoint") == b"x"
    assert collect(any_store, older_than_seconds=60.0).objects == 2
    assert list(any_store.list("")) == []


def test_leftovers_beside_a_complete_result_go(any_store: Store) -> None:
    record = run(any_store)
    folder = f"stages/train/{record.key('train')}"
    for name in (f"{folder}/lease.json", f"{folder}/work/checkpoint.npz", f"{folder}/0123456789abcdef/old"):
        any_store.put(name, b"left")
    any_store.put("probes/0123", b"1")
    assert collect(any_store).objects == 4
    assert all_reused(engine(any_store).plan())
    assert verify(any_store)[0] == []
    assert not [
        name for name in any_store.list("") if name.endswith(("lease.json", "old", "checkpoint.npz", "0123"))
    ]


def between(store: Store, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Have something happen after the manifests were removed and before anybody looks for who needs them."""
    delete = store.delete

    def deleting(names: Any) -> None:
        names = list(names)
        delete(names)
        if names and all(name.endswith("/manifest.json") for name in names):
            happens()

    monkeypatch.setattr(store, "delete", deleting)


def test_a_result_that_a_run_begins_to_need_meanwhile_stays(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(any_store)
    any_store.delete([f"runs/{first.run}.json"])

    def begin() -> None:
        record = RunRecord(run="29990101-000000-aaaa", started="2999-01-01", data="sample", recipe="demo")
        record.needs = first.needs
        record.save(any_store)

    between(any_store, monkeypatch, begin)
    collect(any_store)
    assert all_reused(engine(any_store).plan())
    assert verify(any_store, deep=True)[0] == []


def test_collecting_while_runs_go_on_breaks_none(any_store: Store) -> None:
    """Runs that reuse and make results, one after another, while garbage is collected without any grace."""
    ended, failures = threading.Event(), list[BaseException]()

    def collecting() -> None:
        while not ended.is_set():
            try:
                collect(any_store, keep_runs=1, grace_seconds=1.0)
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=collecting)
    thread.start()
    try:
        for number in range(8):
            record = run(any_store, {"train": {"seed": number % 3}})
            for stage in record.stages:
                # It may be away for the moment in which it is seen who needs it.
                manifest, deadline = f"stages/{stage.stage}/{stage.key}/manifest.json", time.monotonic() + 10
                while any_store.get_tagged(manifest) is None:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            time.sleep(0.3)
    finally:
        ended.set()
        thread.join()
    assert failures == []
    assert verify(any_store, deep=True)[0] == []


@pytest.mark.parametrize("deep", [False, True])
def test_damage_is_found_and_named(any_store: Store, deep: bool) -> None:
    record = run(any_store)
    folders = {stage.stage: f"stages/{stage.stage}/{stage.key}" for stage in record.stages}
    locations = {name.rsplit("/", 1)[1]: name for name in any_store.list(folders["train"])}
    any_store.delete([locations["model.keras"]])
    any_store.put(locations["history.json"], b"train history.jsoN")
    damage, num_objects = verify(any_store, deep=deep)
    assert sorted(damaged.problem for damaged in damage) == [
        "history.json was altered",
        "model.keras is missing",
    ]
    assert num_objects == 12


def test_a_damaged_result_is_made_again_and_counted(any_store: Store) -> None:
    first = run(any_store)
    folder = f"stages/train/{first.key('train')}/"
    any_store.delete([name for name in any_store.list(folder) if name.endswith("model.keras")])
    again = run(any_store)
    assert [stage.state for stage in again.stages] == ["reused", "reused", "ran", *["reused"] * 3]
    assert again.stages[2].damaged == ["model.keras"]
    assert again.stages[2].reason == "damaged: model.keras is missing"
    assert verify(any_store)[0] == []


def put_part(store: Store, name: str, result: str = "") -> list[str]:
    """Put a part of ingest; `result` is the key of the complete result that uses it."""
    names = [f"parts/ingest/group/0123/{name}.npz", f"parts/ingest/group/{name}.json"]
    for each in names:
        store.put(each, b"{}")
    if result:
        names.append(f"parts/uses/{result}.json")
        store.put(names[-1], json.dumps(names[:2]).encode())
    return names


def test_parts_stay_as_long_as_a_result_that_uses_them(any_store: Store) -> None:
    first = run(any_store, content=b"other")
    used = put_part(any_store, "used", first.key("ingest"))
    unused = put_part(any_store, "unused")
    assert collect(any_store, grace_seconds=3600.0).objects == 0
    assert collect(any_store).objects == len(unused)
    assert list(any_store.list("parts/")) == sorted(used)
    run(any_store, {"ingest": {"seed": 1}})
    assert collect(any_store, keep_runs=1).runs == [first.run]
    assert list(any_store.list("parts/")) == []


def test_parts_of_a_result_that_a_run_is_not_done_with_stay(any_store: Store) -> None:
    record = run(any_store)
    key = record.needs["ingest"]
    any_store.delete([f"stages/ingest/{key}/manifest.json"])
    location, _ = put_part(any_store, "begun")
    stored = StoredObject(name="begun.npz", location=location, size_bytes=2, sha256="0" * 64)
    any_store.put(f"stages/ingest/{key}/parts/begun.npz.json", stored.model_dump_json().encode())
    collect(any_store)
    assert location in list(any_store.list("parts/"))
