"""Label errors: a cross-validation, and a list of images whose labels a person should look at.

Every fold is a run of its own, until evaluate. What the models say of the images that they did not learn from
is an extra result (`tasks/review/label_errors.py`): every run of the cross-validation names it among its
needs, and has its page among its outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hemaflow.flows.config.folds import fold_requests
from hemaflow.flows.engine.extra_results import ExtraResult, obtain
from hemaflow.flows.engine.worker_process import StageWorker
from hemaflow.flows.prefect_ui import pages
from hemaflow.flows.runs.record import RunRecord, result_of
from hemaflow.flows.workflows.host import Host
from hemaflow.infra.results.draft import Progress, silent
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import open_store
from hemaflow.tasks.review.label_errors import (
    CSV_NAME,
    PAGE_NAME,
    LabelErrorsConfig,
    RankBy,
    parent_names,
    read_candidates,
)

LIBRARIES = ("cleanlab", "scikit-learn", "numpy", "pillow", "jinja2")
"""Distributions whose version is part of the key."""
NAME = "label_errors"
"""What the result is called in the store."""
MODULE = "hemaflow.tasks.review.label_errors"
"""What makes it."""
OUTPUT = "label-errors"
"""What the page is called among the outputs of a run."""
NEVER_MADE = "never done with these folds and this code"
"""Why it is made where the store has nothing of it."""


class LabelErrors(NamedTuple):
    """What came of looking for label errors."""

    runs: list[str]
    """One for each fold."""
    result: Manifest
    """`label-errors.csv`, `label-errors.html` (tasks/review/label_errors.py)."""


def search_label_errors(
    host: Host,
    *,
    recipe: str = "laptop",
    data: str = "",
    changes: Sequence[str] = (),
    folds: int = 5,
    rank_by: RankBy = "self_confidence",
    store: str = "",
) -> LabelErrors:
    """Train once for each fold, and list the images whose labels the other folds' models contradict.

    Args:
        host: Carries it out.
        recipe: The recipe whose config is used.
        data: The source of the images; the recipe's own where empty.
        changes: Changes to the recipe's config, each `stage.field=value`.
        folds: How many folds the images are divided into: so many models are trained.
        rank_by: The probability of the given label, or its margin before the likeliest other one.
        store: The object store; that of HEMAFLOW_STORE where empty.
    """
    opened = open_store(store or host.settings.store)
    requests = fold_requests(recipe, data=data, changes=changes, folds=folds, store=store)
    records = [host.run(request) for request in requests]
    result = host.step(
        "find label errors",
        lambda: find_label_errors(opened, records, host.settings, LabelErrorsConfig(rank_by=rank_by)),
    )
    candidates = read_candidates(result.read(opened, CSV_NAME))
    runs = [record.run for record in records]
    host.publish(
        "label-errors",
        lambda: pages.label_errors(result, candidates, runs, opened.url),
        "Images whose labels to look at",
    )
    return LabelErrors(runs, result)


def find_label_errors(
    store: Store,
    records: Sequence[RunRecord],
    settings: Settings,
    config: LabelErrorsConfig | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Return the candidates; facts `num_images`, `num_candidates`, `conflicts`
    (tasks/review/label_errors.py).

    Args:
        store: Where the results of the runs are.
        records: One run for each fold, in their order; each is saved with what it needs and what came of it.
        settings: How long a worker may take.
        config: How candidates are ranked; the defaults where None.
        progress: Told how far it is.

    Raises:
        UserError: A run has no result of ingest or evaluate any more.
        DataError: The runs are not those of one division of the same images.
        StageError: The worker could not do its work.
    """
    config = config or LabelErrorsConfig()
    parents: dict[str, Manifest] = {}
    for record, (ingest, evaluate) in zip(records, parent_names(len(records)), strict=True):
        parents[ingest] = result_of(store, record, "ingest")
        parents[evaluate] = result_of(store, record, "evaluate")
    with StageWorker() as worker:
        extra = ExtraResult(NAME, MODULE, config, parents, LIBRARIES, NEVER_MADE)
        manifest = obtain(extra, store, records, worker, settings, progress)
    for record in records:
        record.outputs[OUTPUT] = manifest.object(PAGE_NAME).location
        record.save(store)
    return manifest
