"""Candidates for label errors from the runs of all folds of a cross-validation, by the rules of every stage.

One result under a key of its own: what is whole is reused, anything else is done in a worker process and
committed. Every run of the cross-validation names it among its needs before it is looked up, so that it is no
garbage as long as one of them is kept, and has its page among its outputs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from hemaflow.flows.engine.engine import look_up
from hemaflow.flows.engine.extra_results import job, key_inputs, note
from hemaflow.flows.engine.worker_process import Worker
from hemaflow.flows.runs.record import RunRecord, result_of
from hemaflow.infra.errors import StageError
from hemaflow.infra.results.draft import Progress, silent
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.tasks.review.label_errors import PAGE_NAME, LabelErrorsConfig, parent_names

LIBRARIES = ("cleanlab", "scikit-learn", "numpy", "pillow", "jinja2")
"""Distributions whose version is part of the key."""
NAME = "label_errors"
"""What the result is called in the store."""
OUTPUT = "label-errors"
"""What the page is called among the outputs of a run."""
NEVER_DONE = "never done with these folds and this code"
"""Why it is made where the store has nothing of it."""


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
    started = time.monotonic()
    config = config or LabelErrorsConfig()
    parents: dict[str, Manifest] = {}
    for record, (ingest, evaluate) in zip(records, parent_names(len(records)), strict=True):
        parents[ingest] = result_of(store, record, "ingest")
        parents[evaluate] = result_of(store, record, "evaluate")
    inputs = key_inputs(NAME, config, parents, LIBRARIES)
    for record in records:
        record.needs[NAME] = inputs.key
        record.save(store)
    found = look_up(store, inputs)
    manifest = found.manifest
    if manifest is None:
        worker = Worker()
        try:
            result = worker.do(
                job(store, config, inputs, parents, found), settings.stage_timeout_seconds, progress
            )
        finally:
            worker.stop()
        if not isinstance(result, Manifest):
            raise StageError(f"{NAME} did not end with a commit.", received=type(result).__name__)
        manifest = result
    for record in records:
        note(record, manifest, found, time.monotonic() - started, NEVER_DONE)
        record.outputs[OUTPUT] = manifest.object(PAGE_NAME).location
        record.save(store)
    return manifest
