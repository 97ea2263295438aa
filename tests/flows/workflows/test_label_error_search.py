"""Label errors: what is asked of the folds, the result in the store, and flipped labels found by command."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.commands import start
from helpers.folds import certain, fold_results
from helpers.here import work_in_this_process
from helpers.pictures import colour_cells
from helpers.results import Call, recorded
from hemaflow.flows.config.folds import fold_requests
from hemaflow.flows.engine import engine, exclusive, extra_results, retries
from hemaflow.flows.engine.engine import Found
from hemaflow.flows.prefect_ui import pages
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.lineage import Lineage
from hemaflow.flows.runs.record import RunRecord, output_path
from hemaflow.flows.runs.upkeep import collect_garbage, verify
from hemaflow.flows.workflows.label_errors import find_label_errors
from hemaflow.infra.errors import ConfigError, StoreUnavailable, UserError
from hemaflow.infra.results.manifest import KeyInputs, Manifest, load_manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.review.label_errors import LabelErrorsConfig, read_candidates
from hemaflow.tasks.sources.sample_cells import draw_cell

CLASSES = ["blue", "green", "red"]


# What is asked for


def test_every_fold_is_a_run_until_evaluate() -> None:
    requests = fold_requests("demo", data="cells", changes=["evaluate.robustness=full"], folds=3)
    configs = [request.pipeline_config() for request in requests]
    assert [(config.ingest.num_folds, config.ingest.fold) for config in configs] == [(3, 0), (3, 1), (3, 2)]
    assert {config.evaluate.robustness for config in configs} == {"none"}
    assert {(request.until_stage, request.data) for request in requests} == {("evaluate", "cells")}
    # But for the fold, all is that of the recipe.
    assert configs[2].train == fold_requests("demo", folds=5)[0].pipeline_config().train


def test_what_cannot_be_is_told_before_anything_is_trained(hemaflow: Call) -> None:
    with pytest.raises(ConfigError, match="val_share and a fold leave nothing to train on"):
        fold_requests("demo", changes=["ingest.val_share=0.5"], folds=2)
    for model in (f"train.initial_weights=run:{'a' * 8}", 'train.ensemble_of=["run:aaaa","run:bbbb"]'):
        with pytest.raises(ConfigError, match="may have learnt from the images"):
            fold_requests("demo", changes=[model], folds=3)
    code, _, err = hemaflow("label-errors", "--rank-by", "margin")
    assert code == 2
    assert "Did you mean 'normalized_margin'" in err
    code, _, err = hemaflow("label-errors", "--recipe", "demmo")
    assert code == 2
    assert "no recipe" in err


# The result in the store


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that were done."""
    return work_in_this_process(monkeypatch)


@pytest.fixture
def runs(store: LocalStore) -> list[RunRecord]:
    """Two folds of forty cells, of which the ninth bears another label than it should."""
    cells = colour_cells("cell", 40)
    believed = {cell.id: certain(cell.label, 3) for cell in cells}
    cells[9] = cells[9]._replace(label=(cells[9].label + 1) % 3)
    made = []
    for fold in range(2):
        results = fold_results(store, cells, believed, fold, 2, classes=CLASSES)
        made.append(recorded(store, f"2026010{fold + 1}-000000-000-aaaa", **results))
    return made


def found(store: Store, runs: list[RunRecord], **config: Any) -> Manifest:
    return find_label_errors(store, runs, Settings(), LabelErrorsConfig(**config))


def test_it_is_kept_with_its_runs_and_accounted_for(
    store: LocalStore, runs: list[RunRecord], jobs: list[str]
) -> None:
    result = found(store, runs)
    assert jobs == ["label_errors"]
    [candidate] = read_candidates(result.read(store, "label-errors.csv"))
    assert (candidate.id, candidate.given, candidate.suggested) == ("cell9", "green", "blue")
    for run in runs:
        saved = find_run(store, run.run)
        assert saved == run
        assert saved.needs["label_errors"] == result.key
        assert [(stage.stage, stage.state) for stage in saved.stages[-1:]] == [("label_errors", "ran")]
        page = output_path(store, saved, "label-errors")
        assert page is not None
        assert page.read_bytes() == result.read(store, "label-errors.html")
    lineage = Lineage.read(store)
    assert {parent.key for parent in lineage.parents(result)} == {
        run.key(stage) for run in runs for stage in ("ingest", "evaluate")
    }
    damage, num_objects = verify(store)
    assert (damage, num_objects) == ([], 2 * (4 + 1) + 2)
    assert collect_garbage(store, grace_seconds=-5.0).objects == 0
    # One of its runs is enough to keep it; without any, it goes.
    collect_garbage(store, keep_runs=1, grace_seconds=-5.0)
    assert load_manifest(store, "label_errors", result.key)
    RunRecord(
        run="20260103-000000-000-aaaa", started="2026-01-31T09:45:00+00:00", data="", recipe="demo"
    ).save(store)
    gone = collect_garbage(store, keep_runs=1, grace_seconds=-5.0)
    assert f"label_errors {result.key}" in gone.results
    assert load_manifest(store, "label_errors", result.key) is None


def test_it_is_found_again_only_where_something_changed(
    store: LocalStore, runs: list[RunRecord], jobs: list[str]
) -> None:
    result = found(store, runs)
    assert found(store, runs) == result
    assert jobs == ["label_errors"]
    assert [stage.state for stage in runs[0].stages[2:]] == ["reused"]
    store.delete([result.object("label-errors.html").location])
    assert found(store, runs) == result
    assert jobs == ["label_errors"] * 2
    assert runs[1].stages[-1].reason == "damaged: label-errors.html is missing"
    assert found(store, runs, rank_by="normalized_margin").key != result.key
    assert jobs == ["label_errors"] * 3


def test_two_that_look_at_once_do_the_work_once(
    store: LocalStore, runs: list[RunRecord], jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=30)

    def look_up(store: Store, inputs: KeyInputs) -> Found:
        found = engine.look_up(store, inputs)
        if found.manifest is None and not jobs:
            with suppress(threading.BrokenBarrierError):
                both.wait()  # until both have seen that there is nothing
        return found

    monkeypatch.setattr(extra_results, "look_up", look_up)
    monkeypatch.setattr(exclusive, "WAIT_SECONDS", 0.05)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: found(store, [run.model_copy() for run in runs]), range(2))
    assert first == second
    assert jobs == ["label_errors"]


def test_a_store_that_is_away_is_tried_again(
    store: LocalStore, runs: list[RunRecord], jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [True, False]

    def look_up(store: Store, inputs: KeyInputs) -> Found:
        if away and away.pop(0):
            raise StoreUnavailable("The store cannot be reached.")
        return engine.look_up(store, inputs)

    monkeypatch.setattr(extra_results, "look_up", look_up)
    monkeypatch.setattr(retries, "RETRY_SECONDS", (0.0,))
    assert found(store, runs).stage == "label_errors"
    assert jobs == ["label_errors"]


def test_runs_whose_results_are_gone_are_told(
    store: LocalStore, runs: list[RunRecord], jobs: list[str]
) -> None:
    store.delete([f"stages/evaluate/{runs[1].key('evaluate')}/manifest.json"])
    with pytest.raises(UserError, match=f"Run {runs[1].run} has no result of evaluate"):
        found(store, runs)
    assert jobs == []


def test_the_page_in_the_ui_lists_candidates_and_where_the_rest_is(
    store: LocalStore, runs: list[RunRecord], jobs: list[str]
) -> None:
    result = found(store, runs)
    candidates = read_candidates(result.read(store, "label-errors.csv"))
    page = pages.label_errors(result, candidates, [run.run for run in runs], store.url)
    assert "# Candidates for label errors: 1" in page
    assert "| 1 | cell9 | green | blue | 0.0500 |" in page
    assert f"`{store.url}/{result.object('label-errors.html').location}`" in page
    assert runs[1].run in page
    many = pages.label_errors(result, candidates * 60, ["r"], store.url)
    assert "10 more in label-errors.csv" in many


# The command


FLIPPED = {"eosinophil": "platelet", "erythroblast": "eosinophil", "lymphocyte": "erythroblast"}
"""The class of a cell → the class whose folder it is put in."""
SMALL = [
    "--folds", "2",
    "--recipe", "demo",
    "--set", "ingest.image_size_pixels=32",
    "--set", "train.input_size_pixels=32",
    "--set", "augment.copies=0",
    "--set", "train.fine_tuning.epochs=15",
    "--set", "train.batch_size=8",
    "--set", "evaluate.bootstrap_resamples=10",
    "--set", "evaluate.tta=none",
    "--set", "evaluate.robustness=none",
    "--set", "evaluate.num_explained=0",
]  # fmt: skip


@pytest.fixture
def cells(tmp_path: Path) -> tuple[str, set[str]]:
    """Four classes of drawn cells, of which three lie in the folder of another class; and which."""
    flipped = set()
    for name in ("eosinophil", "erythroblast", "lymphocyte", "platelet"):
        for number in range(32):
            folder = FLIPPED[name] if number == 5 and name in FLIPPED else name
            file = f"{folder}/{name[:3]}{number:02d}.png"
            if folder != name:
                flipped.add(file)
            path = tmp_path / "cells" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_cell(PBC_CLASSES.index(name), number)).save(path)
    return str(tmp_path / "cells"), flipped


def test_the_command_puts_flipped_labels_at_the_top(
    served: dict[str, str], store: LocalStore, cells: tuple[str, set[str]]
) -> None:
    data, flipped = cells

    def look() -> dict[str, Any]:
        arguments = ["--data", data, "--store", store.url, "--json", *SMALL]
        process = start(served, "label-errors", *arguments)
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
        assert err.splitlines()[-1] == "imported: prefect"
        document: dict[str, Any] = json.loads(out)
        return document

    document = look()
    assert document["num_images"] == 128
    assert {candidate["id"] for candidate in document["candidates"][:3]} == flipped
    assert "label-errors.html" in document["page"]
    for candidate in document["candidates"][:3]:
        assert FLIPPED[candidate["suggested"]] == candidate["given"]
    page = Path(document["page"]).read_text()
    assert page.count("<img") == len(document["candidates"])
    again = look()
    assert {name: again[name] for name in again if name != "runs"} == {
        name: document[name] for name in document if name != "runs"
    }
    for run in again["runs"]:
        record = find_run(store, run)
        assert [stage.stage for stage in record.stages] == [
            "ingest",
            "augment",
            "train",
            "predict",
            "evaluate",
            "report",
            "label_errors",
        ]
        assert {stage.state for stage in record.stages} == {"reused"}
