"""The report of a run: made once for the same results, found again, and named after each run."""

from __future__ import annotations

import pytest

from helpers.results import Call, engine, run
from hemaflow.flows.config.recipes import recipe_named
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.config.stages import STAGES
from hemaflow.flows.engine import report as report_module
from hemaflow.flows.engine.open import open_engine
from hemaflow.flows.engine.report import command_of, plan_report, report_of
from hemaflow.flows.runs.record import output_path, read_record, result_of
from hemaflow.flows.runs.upkeep import collect_garbage
from hemaflow.infra.errors import UserError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore

DEMO = recipe_named("demo").config.model_dump()


def test_runs_with_the_same_results_share_a_report_and_each_page_names_its_run(any_store: Store) -> None:
    first = run(any_store, with_report=True)
    second = run(any_store, with_report=True)
    assert [stage.state for stage in second.stages] == ["reused"] * 7
    assert first.key("report") == second.key("report")
    for record, other in ((first, second), (second, first)):
        path = output_path(any_store, record, "report")
        assert path
        page = path.read_text()
        assert record.run in page
        assert other.run not in page
        assert "made up" in page
        for told in (
            "recipe demo on sample",
            "hemaflow run --data sample --recipe demo",
            record.started[:10],
        ):
            assert told in page
        assert {record.key(stage) for stage in STAGES if stage != "submit"} <= set(
            page.replace("<", ">").split(">")
        )


def test_to_look_at_a_report_is_to_read(store: LocalStore, hemaflow: Call) -> None:
    record = run(store, with_report=True)
    before = {entry.name: entry for entry in store.entries("")}
    code, out, _ = hemaflow("report")
    assert (code, out.strip()) == (0, str(report_of(store, record, Settings())))
    assert {entry.name: entry for entry in store.entries("")} == before


def test_a_page_that_is_gone_is_written_again(store: LocalStore) -> None:
    record = run(store, with_report=True)
    location = record.outputs["report"]
    page = store.get(location)
    store.delete([location])
    assert report_of(store, record, Settings()).read_bytes() == page
    assert store.get(location) == page


def test_the_report_of_an_earlier_version_is_the_one_that_it_made(store: LocalStore) -> None:
    """Its evaluate made the page, and there are no predictions."""
    record = run(store)
    evaluated = result_of(store, record, "evaluate")
    record.stages = [stage for stage in record.stages if stage.stage != "predict"]
    record.outputs["report"] = evaluated.object("metrics.json").location
    assert report_of(store, record, Settings()).name == "metrics.json"
    del record.outputs["report"]
    with pytest.raises(UserError, match=f"Run {record.run} has no report") as raised:
        report_of(store, record, Settings())
    assert f"hemaflow run --of {record.run} --until evaluate" in str(raised.value)


def test_plan_says_what_becomes_of_the_report(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(**arguments: object) -> tuple[str, str] | None:
        own = engine(store, **arguments)
        found = plan_report(own, own.plan())
        return found and (found.state, found.reason)

    assert planned() == ("run", "follows ingest, augment, train, predict, evaluate")
    record = run(store, with_report=True)
    assert planned() == ("reuse", "complete, 1 objects checked")
    assert planned(until_stage="predict") is None
    monkeypatch.setattr(report_module, "LIBRARIES", ("numpy",))
    state, reason = planned() or ("", "")
    assert state == "run"
    assert reason.startswith("jinja2 ")
    assert reason.endswith(f"(since run {record.run})")


def test_pages_go_with_their_runs(store: LocalStore) -> None:
    first, last = run(store, with_report=True), run(store, with_report=True)
    collect_garbage(store, keep_runs=1, grace_seconds=0.0)
    assert list(store.list("reports/")) == [last.outputs["report"]]
    assert first.outputs["report"] != last.outputs["report"]


def test_the_command_of_a_run_gives_its_results_again(store: LocalStore) -> None:
    record = run(store)
    record.changes = ["train.seed=3", 'augment.layers=[{"name": "RandomFlip"}]']
    record.data = "my cells.zip"
    assert command_of(record) == (
        "hemaflow run --data 'my cells.zip' --recipe demo --set train.seed=3 "
        '--set \'augment.layers=[{"name": "RandomFlip"}]\''
    )
    record.recipe, record.of = "custom", "20260131"
    assert command_of(record) == f"hemaflow run --data 'my cells.zip' --config {record.run} --of 20260131"


# To begin with evaluate: predictions that are there are used, others are made.


def states(store: Store, **request: object) -> str:
    asked = RunRequest.model_validate({"data": "sample", "store": store.url, **request})
    decisions = open_engine(asked, Settings()).plan()
    return "".join("r" if decision.state == "run" else "-" for decision in decisions)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), "----rr"),
        (("evaluate.bootstrap_resamples=10",), "----rr"),
        (("evaluate.tta=dihedral",), "---rrr"),
        (("evaluate.robustness=none",), "---rrr"),
    ],
)
def test_what_begins_with_evaluate_predicts_only_what_was_not_predicted(
    store: LocalStore, changes: tuple[str, ...], expected: str
) -> None:
    earlier = run(store, DEMO)
    assert states(store, from_stage="evaluate", changes=changes) == expected
    assert states(store, from_stage="evaluate", changes=changes, of_run=earlier.run) == expected
    assert states(store, from_stage="predict", of_run=earlier.run) == "---rrr"


def test_a_run_of_an_earlier_version_is_evaluated_again_from_its_model(store: LocalStore) -> None:
    earlier = run(store, DEMO)
    record = read_record(store, earlier.run)
    record.stages = [stage for stage in record.stages if stage.stage != "predict"]
    record.save(store)
    store.delete([f"stages/predict/{earlier.key('predict')}/manifest.json"])
    assert states(store, from_stage="evaluate", of_run=earlier.run) == "---rrr"


def test_another_metric_is_no_reason_to_prove_a_submission_again(store: LocalStore) -> None:
    """submit reads the predictions and the views: nothing else of evaluate is in its key, or given to it."""
    earlier = run(store, DEMO)
    evaluated = result_of(store, earlier, "evaluate")
    other = evaluated.model_copy(
        update={
            "facts": {**evaluated.facts, "metrics": {"test": {"error": 0.1}}},
            "objects": tuple(
                stored.model_copy(update={"sha256": "0" * 64}) if stored.name == "metrics.json" else stored
                for stored in evaluated.objects
            ),
        }
    )
    reads = STAGES["submit"].reads_of
    assert reads(evaluated).digest == reads(other).digest
    assert [stored.name for stored in reads(evaluated).objects] == ["predictions-test.csv"]
    views = evaluated.model_copy(update={"facts": {**evaluated.facts, "tta_views": ["identity"]}})
    assert reads(views).digest != reads(evaluated).digest
