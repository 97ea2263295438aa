"""Going on from the results of an earlier run, and runs that wait for each other."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from results import Silent, make

from flows.engine import Engine
from flows.record import RunRecord
from flows.run import Run, RunRequest
from infra.errors import UserError
from infra.settings import Settings
from infra.store import Store


def engine(store: Store, **request: Any) -> Engine:
    return RunRequest.model_validate({"data": "sample", "store": store.url, **request}).engine(Settings())


def run(store: Store, **request: Any) -> RunRecord:
    """Run what the engine of a request decides, with made-up results."""
    own = Run(RunRequest(store=store.url), Silent(), Settings(), engine(store, **request))
    with own.recorded() as record:
        for stage in own.engine.stages:
            with own.decided(stage) as decision:
                made = make(stage, decision.draft(store)) if decision.state == "run" else None
                own.finish(decision, made)
    return record


def states(made: Engine) -> str:
    return "".join("r" if decision.state == "run" else "-" for decision in made.plan())


def test_pinned_results_are_used_whatever_changed(any_store: Store) -> None:
    earlier = run(any_store)
    changed = ("ingest.seed=7", "train.seed=3")
    assert states(engine(any_store, changes=changed)) == "rrrrr"
    pinned = engine(any_store, changes=changed, of_run=earlier.run, from_stage="train")
    assert states(pinned) == "--rrr"
    assert pinned.plan()[0].reason == f"pinned to run {earlier.run}, although ingest.seed 0 → 7"
    assert pinned.plan()[1].reason == f"pinned to run {earlier.run}"


def test_a_run_is_gone_on_with_without_its_data(any_store: Store) -> None:
    """On another machine that shares only the store."""
    begun = run(any_store, until_stage="augment")
    with pytest.raises(UserError, match="no such data source"):
        engine(any_store, data="/only/on/the/first/machine")
    goes_on = engine(any_store, data="/only/on/the/first/machine", of_run=begun.run)
    assert states(goes_on) == "--rrr"


def test_a_run_without_the_results_cannot_be_gone_on_with(any_store: Store) -> None:
    earlier = run(any_store, until_stage="augment")
    with pytest.raises(UserError, match="has no result of train to go on from") as raised:
        engine(any_store, of_run=earlier.run, from_stage="evaluate")
    assert "ingest, augment" in str(raised.value)
    with pytest.raises(UserError, match="No run is called 'ffff'"):
        engine(any_store, of_run="ffff")


def test_a_damaged_pin_is_a_mistake_and_not_computed_in_silence(any_store: Store) -> None:
    earlier = run(any_store)
    folder = f"stages/ingest/{earlier.key('ingest')}/"
    any_store.delete([name for name in any_store.list(folder) if name.endswith("index.csv")])
    with pytest.raises(UserError, match=r"is damaged: index\.csv is missing"):
        engine(any_store, of_run=earlier.run, from_stage="train").plan()


def test_the_lineage_says_what_was_pinned(any_store: Store) -> None:
    earlier = run(any_store)
    record = run(any_store, changes=("ingest.seed=7",), of_run=earlier.run, from_stage="submit")
    assert record.of == earlier.run
    assert [stage.state for stage in record.stages] == ["reused"] * 4 + ["ran"]
    assert record.stages[0].key == earlier.key("ingest")
    assert "although ingest.seed 0 → 7" in record.stages[0].reason


@pytest.mark.parametrize("seconds", [30.0, 0.0])
def test_the_second_run_waits_for_the_first_unless_it_is_told_not_to(
    any_store: Store, seconds: float
) -> None:
    settings, begun, made = Settings(lease_seconds=seconds), threading.Event(), list[str]()

    def go(first: bool) -> None:
        observer = Silent()
        own = Run(RunRequest(store=any_store.url), observer, settings, engine(any_store))
        with own.recorded():
            for stage in own.engine.stages:
                with own.decided(stage) as decision:
                    manifest = None
                    if decision.state == "run":
                        made.append(stage)
                        begun.set()
                        time.sleep(0.5)
                        manifest = make(stage, decision.draft(any_store))
                    own.finish(decision, manifest)
        if not first:
            waited.extend(observer.waited)

    waited = list[str]()
    threads = [threading.Thread(target=go, args=(first,)) for first in (True, False)]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join()
    if seconds:
        assert sorted(made) == sorted(set(made))
        assert waited
    else:
        assert len(made) > 5
        assert waited == []
    assert not [name for name in any_store.list("") if name.endswith("lease.json")]


def test_a_lease_is_given_back_when_a_stage_fails(any_store: Store) -> None:
    own = Run(RunRequest(store=any_store.url), Silent(), Settings(), engine(any_store))

    def fail() -> None:
        with own.decided("ingest"):
            assert [name for name in any_store.list("stages/") if name.endswith("lease.json")]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(any_store.list("stages/")) == []
