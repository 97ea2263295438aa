"""The flow `label-errors`: a cross-validation, and a list of images whose labels a person should look at.

Every fold is a run of `blood-cell-training` of its own (`flows/workflows/label_errors.py`).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from hemaflow.flows.config.recipes import RecipeName
from hemaflow.flows.prefect_host import PrefectHost
from hemaflow.flows.server.supervision import supervised
from hemaflow.flows.workflows.label_errors import LabelErrors, search_label_errors
from hemaflow.tasks.review.label_errors import RankBy


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
        return search_label_errors(
            PrefectHost(),
            recipe=recipe,
            data=data,
            changes=changes,
            folds=folds,
            rank_by=rank_by,
            store=store,
        )
