"""The flow `label-errors`: a cross-validation, and a list of images whose labels a person should look at.

Every fold is a run of `blood-cell-training` of its own, until evaluate: what is complete is reused. What the
models say of the images that they did not learn from goes to `tasks/review/label_errors.py`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, NamedTuple

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from pydantic import Field

from hemaflow.flows.config.folds import fold_requests
from hemaflow.flows.config.recipes import RecipeName
from hemaflow.flows.engine.label_finding import find_label_errors
from hemaflow.flows.prefect_ui import pages
from hemaflow.flows.prefect_ui.artifacts import publish
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.server.supervision import supervised
from hemaflow.flows.training import SETTINGS, blood_cell_training
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import open_store
from hemaflow.tasks.review.label_errors import CSV_NAME, LabelErrorsConfig, RankBy, read_candidates


class LabelErrors(NamedTuple):
    """What came of looking for label errors."""

    runs: list[str]
    """One for each fold."""
    result: Manifest
    """`label-errors.csv`, `label-errors.html` (tasks/review/label_errors.py)."""


def run_name() -> str:
    """Return what a flow run is called: `label errors laptop on cells.zip`."""
    given = flow_run.parameters
    data = PurePosixPath(given.get("data") or "").name
    return " on ".join(filter(None, (f"label errors {given.get('recipe', 'laptop')}", data)))


@flow(name="label-errors", flow_run_name=run_name, persist_result=False)
def label_errors(
    recipe: RecipeName = "laptop",
    data: str = "",
    changes: tuple[str, ...] = (),
    folds: Annotated[int, Field(ge=2, le=20)] = 5,
    rank_by: RankBy = "self_confidence",
    store: str = "",
) -> LabelErrors:
    """Train once for each fold, and list the images whose labels the other folds' models contradict.

    Args:
        recipe: The recipe whose config is used.
        data: The source of the images; the recipe's own where empty.
        changes: Changes to the recipe's config, each `stage.field=value`.
        folds: How many folds the images are divided into: so many models are trained.
        rank_by: The probability of the given label, or its margin before the likeliest other one.
        store: The object store: a folder or s3://bucket/prefix; that of HEMAFLOW_STORE where empty.
    """
    with supervised():
        opened = open_store(store or SETTINGS.store)
        requests = fold_requests(recipe, data=data, changes=changes, folds=folds, store=store)
        records = [blood_cell_training(**request.model_dump()) for request in requests]
        result = find(opened, records, LabelErrorsConfig(rank_by=rank_by))
        candidates = read_candidates(result.read(opened, CSV_NAME))
        runs = [record.run for record in records]
        publish(
            "label-errors",
            lambda: pages.label_errors(result, candidates, runs, opened.url),
            "Images whose labels to look at",
        )
        return LabelErrors(runs, result)


@task(task_run_name="find label errors", cache_policy=NO_CACHE, persist_result=False)
def find(store: Store, records: list[RunRecord], config: LabelErrorsConfig) -> Manifest:
    """Find the candidates in what the models of all folds say."""
    return find_label_errors(store, records, SETTINGS, config)
