"""Judging with real models and a real worker, on runs whose results were made up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.here import work_in_this_process
from helpers.pictures import colour_cells, evaluated, ingested, trained
from helpers.results import Call, recorded
from hemaflow.flows.engine import worker_process
from hemaflow.flows.runs.champion import promote
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.lineage import Lineage
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.runs.upkeep import collect_garbage
from hemaflow.flows.workflows.judging import Judgement, judge
from hemaflow.infra.errors import UserError
from hemaflow.infra.results.manifest import load_manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.review.judge import JudgeConfig

pytestmark = pytest.mark.slow

HELD = {"val": colour_cells("val", 60), "test": colour_cells("test", 90)}
OLD = colour_cells("train", 60)


@pytest.fixture
def runs(store: LocalStore) -> tuple[RunRecord, RunRecord]:
    """A champion, and a challenger that takes blue for green."""
    champion = recorded(
        store,
        "20260101-000000-000-aaaa",
        ingest=ingested(store, "old", {**HELD, "train": OLD}, reference="ab"),
        train=trained(store, "old", (2, 1, 0)),
        evaluate=evaluated(store, "old"),
    )
    challenger = recorded(
        store,
        "20260102-000000-000-bbbb",
        ingest=ingested(store, "new", {**HELD, "train": [*OLD, *colour_cells("new", 40)]}, reference="ab"),
        train=trained(store, "new", (1, 2, 0)),
        evaluate=evaluated(store, "new"),
    )
    return champion, challenger


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that were done."""
    return work_in_this_process(monkeypatch)


def judged(store: Store, runs: tuple[RunRecord, RunRecord], **arguments: Any) -> Judgement:
    champion, challenger = runs
    return judge(store, challenger, champion, Settings(), **arguments)


def test_a_worker_judges_and_the_record_says_how(
    store: LocalStore, runs: tuple[RunRecord, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, challenger = runs
    told: list[str] = []
    verdict, drift = judged(store, runs, progress=lambda done, total, text: told.append(text))
    assert verdict.facts["promote"] is False
    assert drift.facts["num_new_images"] == 40
    assert {"images compared", "reference images, champion", "reference images, challenger"} <= set(told)
    saved = find_run(store, challenger.run)
    assert saved == challenger
    assert saved.needs["judge"] == verdict.key
    assert saved.needs["drift"] == drift.key
    assert [(stage.stage, stage.state) for stage in saved.stages[-2:]] == [("drift", "ran"), ("judge", "ran")]
    assert saved.verdict["champion"] == champion.run
    assert saved.verdict["reason"] == verdict.facts["reason"]
    assert saved.verdict["drift"] == drift.facts
    # The same again starts no worker.
    monkeypatch.setattr(worker_process, "Worker", None)
    again = judged(store, runs)
    assert again == (verdict, drift)
    assert [stage.state for stage in find_run(store, challenger.run).stages[-2:]] == ["reused", "reused"]
    assert len(challenger.stages) == 5


def test_what_is_damaged_or_asked_otherwise_is_done_again_and_nothing_else(
    store: LocalStore, runs: tuple[RunRecord, RunRecord], jobs: list[str]
) -> None:
    verdict, drift = judged(store, runs)
    assert jobs == ["drift", "judge"]
    store.delete([verdict.object("verdict.json").location])
    again = judged(store, runs)
    assert jobs == ["drift", "judge", "judge"]
    assert again == (verdict, drift)
    assert runs[1].stages[-1].reason == "damaged: verdict.json is missing"
    assert runs[1].stages[-1].damaged == ["verdict.json"]
    assert json.loads(again.verdict.read(store, "verdict.json"))["promote"] is False
    lenient = judged(store, runs, judge_config=JudgeConfig(delta=1.0, epsilon=1.0))
    assert jobs == ["drift", "judge", "judge", "judge"]
    assert lenient.verdict.facts["promote"] is True
    assert lenient.verdict.key != verdict.key
    assert lenient.drift == drift
    assert runs[1].needs["judge"] == lenient.verdict.key


def test_a_verdict_is_kept_and_leads_to_both_models(
    store: LocalStore, runs: tuple[RunRecord, RunRecord], jobs: list[str], hemaflow: Call
) -> None:
    champion, challenger = runs
    verdict, drift = judged(store, runs)
    promote(store, champion, "the first")
    assert collect_garbage(store, grace_seconds=-5.0).objects == 0
    for stage, made in (("judge", verdict), ("drift", drift)):
        assert load_manifest(store, stage, made.key) is not None
    lineage = Lineage.read(store)
    keys = {run.key(stage) for run in runs for stage in ("ingest", "train", "evaluate")}
    assert {parent.key for parent in lineage.parents(verdict)} == keys
    model = lineage.manifests[str(champion.key("train"))]
    assert {child.key for child in lineage.children(model)} == {verdict.key, drift.key}
    document = json.loads(hemaflow("show", verdict.key[:12], "--json")[1])
    assert document["made_from"]["champion_train"] == [champion.key("train")]
    assert document["made_from"]["train"] == [challenger.key("train")]
    assert [run["run"] for run in document["runs"]] == [challenger.run]
    said = [" ".join(line.split()) for line in hemaflow("show", challenger.run)[1].splitlines()]
    assert f"verdict {verdict.facts['reason']}" in said


def test_a_run_without_the_results_cannot_be_judged(
    store: LocalStore, runs: tuple[RunRecord, RunRecord], jobs: list[str]
) -> None:
    champion, challenger = runs
    champion.stages.pop()
    with pytest.raises(UserError, match=f"{champion.run} has no result of evaluate"):
        judged(store, runs)
    assert jobs == []
    assert find_run(store, challenger.run).verdict == {}
