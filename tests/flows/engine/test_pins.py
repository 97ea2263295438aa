"""Going on from the results of an earlier run, and runs that wait for each other."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.results import Silent, make
from helpers.results import run as run_made_up
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.engine.engine import Engine
from hemaflow.flows.engine.open import open_engine
from hemaflow.flows.engine.run import Run
from hemaflow.flows.runs.champion import current, promote
from hemaflow.flows.runs.record import RunRecord
from hemaflow.infra.errors import ConfigError, UserError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore


def asked(store: Store, **request: Any) -> RunRequest:
    return RunRequest.model_validate({"data": "sample", "store": store.url, **request})


def engine(store: Store, **request: Any) -> Engine:
    return open_engine(asked(store, **request), Settings())


def run(store: Store, **request: Any) -> RunRecord:
    """Run what the engine of a request decides, with made-up results."""
    own = Run(asked(store, **request), Silent(), Settings())
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
    assert states(engine(any_store, changes=changed)) == "rrrrrr"
    pinned = engine(any_store, changes=changed, of_run=earlier.run, from_stage="train")
    assert states(pinned) == "--rrrr"
    assert pinned.plan()[0].reason == f"pinned to run {earlier.run}, although ingest.seed 0 → 7"
    assert pinned.plan()[1].reason == f"pinned to run {earlier.run}"


def test_a_run_is_gone_on_with_without_its_data(any_store: Store, tmp_path: Path) -> None:
    """On another machine that shares only the store."""
    data = tmp_path / "only on the first machine"
    data.mkdir()
    begun = run(any_store, until_stage="augment", data=str(data))
    data.rmdir()
    with pytest.raises(UserError, match="no such data source"):
        engine(any_store, data=str(data))
    goes_on = engine(any_store, data=str(data), of_run=begun.run)
    assert states(goes_on) == "--rrrr"


def test_other_data_is_no_way_to_go_on(any_store: Store) -> None:
    begun = run(any_store, until_stage="augment")
    with pytest.raises(ConfigError, match="was made from other data"):
        engine(any_store, data="cells.zip", of_run=begun.run)
    with pytest.raises(UserError, match="no such data source"):  # ingest is to be done again, with these
        engine(any_store, data="cells.zip", of_run=begun.run, from_stage="ingest")


def test_a_run_is_gone_on_with_from_the_model_that_it_found(store: LocalStore) -> None:
    """Whoever is the champion now, and whether the run that made the model is still known."""
    model = {"backbone": "cnn", "classes": ["a"]}
    first = run_made_up(store, {"train": {"seed": 1}}, content=b"first", facts=model)
    promote(store, first, "the first")
    champions = ("train.initial_weights=run:champion",)
    begun = run(store, changes=champions)
    second = run_made_up(store, {"train": {"seed": 2}}, content=b"second", facts=model)
    promote(store, second, "the second", current(store).tag)  # type: ignore[union-attr]
    store.delete([f"runs/{first.run}.json"])

    def begins_with(**request: Any) -> str:
        return engine(store, **request).config.train.initial_weights

    same, other = {"of_run": begun.run, "from_stage": "train"}, (f"train.initial_weights=run:{second.run}",)
    assert begins_with(changes=champions, **same) == f"train:{first.key('train')}"
    assert begins_with(changes=champions) == f"train:{second.key('train')}"
    assert begins_with(changes=other, **same) == f"train:{second.key('train')}"
    assert states(engine(store, changes=champions, of_run=begun.run)) == "------"


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
    any_store.delete([name for name in any_store.list(folder) if name.endswith("index.npz")])
    with pytest.raises(UserError, match=r"is damaged: index\.npz is missing"):
        engine(any_store, of_run=earlier.run, from_stage="train").plan()


def test_the_lineage_says_what_was_pinned(any_store: Store) -> None:
    earlier = run(any_store)
    record = run(any_store, changes=("ingest.seed=7",), of_run=earlier.run, from_stage="submit")
    assert record.of == earlier.run
    assert [stage.state for stage in record.stages] == ["reused"] * 5 + ["ran"]
    assert record.stages[0].key == earlier.key("ingest")
    assert "although ingest.seed 0 → 7" in record.stages[0].reason


@pytest.mark.parametrize("seconds", [30.0, 0.0])
def test_the_second_run_waits_for_the_first_unless_it_is_told_not_to(
    any_store: Store, seconds: float
) -> None:
    """The first makes its first stage until the second waits for it, or makes it too."""
    settings, begun, made = Settings(lease_seconds=seconds), threading.Event(), list[str]()
    observers = [Silent(), Silent()]
    first, second = (
        Run(RunRequest(store=any_store.url), observer, settings, engine(any_store)) for observer in observers
    )

    def have_met() -> bool:
        return bool(observers[1].waited) if seconds else len(made) > 1

    def go(own: Run) -> None:
        with own.recorded():
            for stage in own.engine.stages:
                with own.decided(stage) as decision:
                    manifest = None
                    if decision.state == "run":
                        made.append(stage)
                        begun.set()
                        deadline = time.monotonic() + 30
                        while own is first and not have_met() and time.monotonic() < deadline:
                            time.sleep(0.01)
                        manifest = make(stage, decision.draft(any_store))
                    own.finish(decision, manifest)

    threads = [threading.Thread(target=go, args=(own,)) for own in (first, second)]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join()
    if seconds:
        assert sorted(made) == sorted(set(made))
        assert observers[1].waited
    else:
        assert len(made) > len(first.engine.stages)
        assert observers[1].waited == []
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
