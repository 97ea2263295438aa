"""Whether a source holds anything new: what counts as a run of which no more can come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hemaflow.flows.retraining import look_for_new_images
from hemaflow.flows.runs.champion import current, promote
from hemaflow.flows.runs.record import RunRecord
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.review.judge import JudgeConfig
from hemaflow.tasks.sources.registry import open_source

from helpers.results import run  # isort: skip

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
    return {"promote": False, "champion": champion, "rule": rule.rule()}


def known(store: LocalStore, data: str, reference: str = "", rule: JudgeConfig = RULE) -> str:
    return look_for_new_images.fn(store, data, "demo", (), reference, current(store), rule)


def test_a_run_that_was_promoted_is_known_until_its_images_change(store: LocalStore, data: str) -> None:
    assert known(store, data) == ""
    first = trained(store, data)
    assert known(store, data) == ""  # as `hemaflow run` leaves it, or a retraining that was killed
    promote(store, first, "the first")
    assert known(store, data) == first.run
    assert look_for_new_images.fn(store, data, "cnn", (), "", current(store), RULE) == ""
    assert look_for_new_images.fn(store, data, "demo", ("train.seed=1",), "", current(store), RULE) == ""
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
