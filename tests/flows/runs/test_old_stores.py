"""A store that hemaflow wrote before its modules got their present names: it is read, and computed again.

`store_of_2504ee4.json` holds the documents of that store, written by `hemaflow run` of revision 2504ee4: the
record of the run and the manifests, whole but for the hashes of the code, of which it has the first 8 digits.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hemaflow
from hemaflow.flows.cli.main import app
from hemaflow.flows.config.changes import change
from hemaflow.flows.config.recipes import recipe_named
from hemaflow.flows.config.recorded import recorded_config
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.engine.open import open_engine
from hemaflow.flows.runs.record import read_record, result_of
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.facts import AugmentFacts, IngestFacts, TrainFacts

DOCUMENTS = Path(__file__).with_name("store_of_2504ee4.json")
RUN = "20261128-070039-512-1f90"


@pytest.fixture
def old_store(store: LocalStore) -> LocalStore:
    """The old store, without the objects."""
    for location, document in json.loads(DOCUMENTS.read_text()).items():
        path = Path(store.url) / location
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    return store


def test_its_runs_are_listed_and_shown(old_store: LocalStore) -> None:
    [run] = hemaflow.runs(old_store.url)
    assert (run.id, run.status, run.metrics.test.accuracy) == (RUN, "completed", 0.125)
    shown = {}
    for command in (["runs"], ["show", RUN], ["show"]):
        result = CliRunner().invoke(app, [*command, "--store", old_store.url])
        assert result.exit_code == 0, result.output
        shown[" ".join(command)] = result.output
    assert f"{RUN}  completed  demo" in shown["runs"]
    assert "hemaflow    0.1.0 2504ee456fac" in shown[f"show {RUN}"]
    assert "test           accuracy 0.1250 (0.0833 to 0.1497)" in shown["show"]


def test_its_stages_are_computed_again_and_the_reason_is_its_version(old_store: LocalStore) -> None:
    decisions = hemaflow.plan("sample", recipe="demo", store=old_store.url)
    assert [decision.state for decision in decisions] == ["run"] * 6
    for decision in (decision for decision in decisions if decision.stage != "predict"):
        assert "another version of hemaflow" in decision.reason
        assert ".py" not in decision.reason
    assert "train.fine_tuning.epochs 1 → 8" in decisions[2].reason
    assert decisions[2].reason.endswith(f"(since run {RUN})")


def test_its_config_and_the_facts_of_its_results_are_read(old_store: LocalStore) -> None:
    record = read_record(old_store, RUN)
    assert recorded_config(record.config) == change(
        recipe_named("demo").config, [*record.changes, "train.input_size_pixels=0"]
    )
    ingest, augment, train = (result_of(old_store, record, stage) for stage in ("ingest", "augment", "train"))
    assert TrainFacts.of(train).trained_on == [ingest.digest]
    assert TrainFacts.of(train).data_overlap == {}
    assert AugmentFacts.of(augment).num_examples == 2 * IngestFacts.of(ingest).num_examples["train"]


@pytest.mark.parametrize("more", [[], ["train.focal_gamma=1", "train.warmup_epochs=2"]])
def test_its_runs_are_continued_even_if_their_changes_are_refused_now(
    old_store: LocalStore, more: list[str]
) -> None:
    record = read_record(old_store, RUN)
    record.changes += [*more, 'train.ensemble_of=["run:a","run:b"]', "train.seed=3"] if more else []
    record.config["train"] |= {"focal_gamma": 1.0, "depth": 3} if more else {}
    record.save(old_store)
    request = RunRequest(data="sample", store=old_store.url, of_run=RUN, from_stage="evaluate")
    assert open_engine(request, Settings()).pins.run == RUN
