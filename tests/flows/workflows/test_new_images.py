"""Whether a source holds anything new: what counts as a run of which no more can come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.runs.champion import current, promote
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.workflows.host import DirectHost
from hemaflow.flows.workflows.retraining import retrain, settled_run
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.review.judge import JudgeConfig
from hemaflow.tasks.sources.registry import open_source

from helpers.results import Silent, run  # isort: skip

RULE = JudgeConfig()


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "cells" / "platelet").mkdir(parents=True)
    (tmp_path / "cells" / "platelet" / "1.png").write_bytes(b"a cell")
    return str(tmp_path / "cells")


def trained(store: LocalStore, data: str, **changed: Any) -> RunRecord:
    """Return the record of a run that is complete, but was not judged."""
    record = run(store)
    with open_source(data, Settings()) as source:
        record.source_sha256 = source.content_digest()
    for name, value in changed.items():
        setattr(record, name, value)
    record.save(store)
    return record


def refused(champion: str, rule: JudgeConfig = RULE) -> dict[str, Any]:
    return {"promote": False, "champion": champion, "rule": rule.rule().document()}


def known(store: LocalStore, data: str, reference: str = "", rule: JudgeConfig = RULE) -> str:
    return settled_run(store, data, "demo", (), reference, current(store), rule, Settings())


def test_a_run_that_was_promoted_is_known_until_its_images_change(store: LocalStore, data: str) -> None:
    assert known(store, data) == ""
    first = trained(store, data)
    assert known(store, data) == ""  # as `hemaflow run` leaves it, or a retraining that was killed
    promote(store, first, "the first")
    assert known(store, data) == first.run
    assert settled_run(store, data, "cnn", (), "", current(store), RULE, Settings()) == ""
    changes = ("train.seed=1",)
    assert settled_run(store, data, "demo", changes, "", current(store), RULE, Settings()) == ""
    (Path(data) / "platelet" / "2.png").write_bytes(b"another cell")
    assert known(store, data) == ""


def test_a_former_champion_is_known(store: LocalStore, data: str) -> None:
    first = trained(store, data)
    promote(store, first, "the first")
    second = run(store, {"train": {"seed": 2}})
    promote(store, second, "the second", current(store).tag)  # type: ignore[union-attr]
    assert known(store, data) == first.run


def test_a_run_that_was_refused_is_known_by_champion_rule_and_reference(store: LocalStore, data: str) -> None:
    champion = run(store, {"train": {"seed": 2}})
    promote(store, champion, "the first")
    held = ["ingest.reference=held"]
    record = trained(store, data, changes=held, verdict=refused(champion.run))
    assert known(store, data) == known(store, data, "held") == record.run
    assert known(store, data, "others") == ""
    assert known(store, data, rule=JudgeConfig(delta=0.02)) == ""
    trained(store, data, changes=held, verdict=refused("another champion"))
    trained(store, data, changes=held, verdict={**refused(champion.run), "promote": True})  # it was overtaken
    assert known(store, data) == record.run
    record.verdict = {}
    record.save(store)
    assert known(store, data) == ""


class MadeUp(DirectHost):
    """Carries out runs whose results are made up."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(Silent(), Settings(store=store.url))
        self.store, self.requests = store, list[RunRequest]()

    def run(self, request: RunRequest) -> RunRecord:
        self.requests.append(request)
        return trained(self.store, request.data, changes=list(request.changes))


def test_without_a_champion_the_first_model_is_promoted_and_then_nothing_is_new(
    store: LocalStore, data: str
) -> None:
    host = MadeUp(store)
    first = retrain(host, data=data, recipe="demo", changes=("train.seed=1",))
    champion = current(store)
    assert champion is not None
    assert first == (
        "Promoted",
        f"Run {champion.run} is the champion: the first model: there was no champion",
    )
    again = retrain(host, data=data, recipe="demo", changes=("train.seed=1",))
    assert again == ("NothingNew", f"{data} holds what run {champion.run} was trained on.")
    assert [(request.data, request.changes) for request in host.requests] == [(data, ("train.seed=1",))]
