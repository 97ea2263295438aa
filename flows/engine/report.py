"""The report of a run: an extra result that runs with the same results share, and the run's details in it.

A run makes its report once evaluate is complete; `hemaflow report RUN` makes it again where its template or a
sentence of it changed since. No network runs for that. The page of a run is `reports/<run>/report.html`.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hemaflow.flows.config.request import CUSTOM
from hemaflow.flows.engine.engine import Decision, Engine, look_up
from hemaflow.flows.engine.extra_results import ExtraResult, obtain
from hemaflow.flows.engine.retries import with_retries
from hemaflow.flows.engine.worker_process import StageWorker
from hemaflow.flows.runs.record import RunRecord, output_path, page_name
from hemaflow.flows.runs.why import explain
from hemaflow.infra.errors import UserError
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store, in_parallel
from hemaflow.tasks.core.stage import StageConfig
from hemaflow.tasks.report.run_details import PAGE_NAME, PARENTS, RunDetails, with_run

NAME = "report"
"""What the result, and the page among the outputs of a run, is called."""
MODULE = "hemaflow.tasks.report.stage"
"""What makes it."""
LIBRARIES = ("numpy", "pillow", "scikit-learn", "matplotlib", "jinja2")
"""Distributions whose version is part of the key."""
NEVER_MADE = "never made of these results with this code"
"""Why it is made where the store has nothing of it."""


class PlannedReport(NamedTuple):
    """Whether the report is to be made, and why."""

    state: str
    """`run` or `reuse`."""
    reason: str
    key: str
    """Its key; "" where results that it tells of are made first."""


def plan_report(engine: Engine, decisions: Sequence[Decision]) -> PlannedReport | None:
    """Return whether a planned run makes a report; None where it ends before evaluate."""
    store = engine.store
    planned = {decision.stage: decision for decision in decisions}
    if not set(PARENTS) <= planned.keys():
        return None
    results = {name: planned[name].manifest for name in PARENTS}  # type: ignore[index]
    parents = {name: manifest for name, manifest in results.items() if manifest}
    if running := [name for name in results if name not in parents]:
        return PlannedReport("run", f"follows {', '.join(running)}", "")
    inputs = report_result(parents).inputs()
    found = look_up(store, inputs)
    if found.manifest:
        return PlannedReport("reuse", found.reason, inputs.key)
    known = engine.known
    earlier = in_parallel(lambda key: load_manifest(store, NAME, key), known.keys(NAME)[:1])
    return PlannedReport(
        "run",
        found.reason or explain(inputs, [there[0] for there in earlier if there], known.runs),
        inputs.key,
    )


def write_report(
    store: Store,
    record: RunRecord,
    parents: Mapping[str, Manifest],
    worker: StageWorker,
    settings: Settings,
) -> tuple[Manifest, Path]:
    """Make the report of a run, or find it; return the result, and a local file with the page of the run.

    Args:
        store: Where it is written.
        record: The run; it is saved with what it needs. Where the page is, is for the caller to save.
        parents: The results of the run, by stage.
        worker: Renders the page, where it is missing.
        settings: How long a worker may take.

    Raises:
        StageError: The page could not be rendered.
    """
    wanted = report_result({name: parents[name] for name in PARENTS})
    inputs = wanted.inputs()
    # A run that has it already is not written to: to look at a report is to read.
    made = look_up(store, inputs).manifest if record.key(NAME) == inputs.key else None
    made = made or obtain(wanted, store, [record], worker, settings)
    page = with_run(made.read(store, PAGE_NAME), details(record, wanted.parents))
    location, sha256 = page_name(record.run), hashlib.sha256(page).hexdigest()
    there = with_retries(lambda: store.stat(location))
    if there is None or there.sha256 != sha256:
        with_retries(lambda: store.put(location, page))
    record.outputs[NAME] = location
    return made, store.path(location, sha256)


def report_of(store: Store, record: RunRecord, settings: Settings) -> Path:
    """Return a local file with the report of a run, rendered again where it is not what it would be now.

    The report of a run of an earlier version, which kept no probabilities, is returned as it was made.

    Raises:
        UserError: The run did not get so far, or its results were removed.
        StageError: The page could not be rendered.
    """
    keys = [(name, key) for name in PARENTS if (key := record.key(name))]
    found = in_parallel(lambda result: load_manifest(store, *result), keys)
    parents = {there[0].stage: there[0] for there in found if there}
    if len(parents) == len(PARENTS):
        known = record.outputs.get(NAME)
        with StageWorker() as worker:
            path = write_report(store, record, parents, worker, settings)[1]
        if record.outputs[NAME] != known:
            record.save(store)
        return path
    made = output_path(store, record, NAME)
    if made is None:
        raise UserError(
            f"Run {record.run} has no report.",
            expected="a run that came to the end of evaluate",
            received=f"a run that is {record.status}",
            where=store.url,
            remedy=f"Complete its evaluate stage: hemaflow run --of {record.run} --until evaluate",
        )
    return made


def details(record: RunRecord, parents: Mapping[str, Manifest]) -> RunDetails:
    """Return what the page says of a run, given the results that it tells of."""
    return RunDetails(
        run=record.run,
        started=record.started,
        recipe=record.recipe,
        data=record.data,
        hemaflow=" ".join(filter(None, (record.hemaflow, record.git_revision))),
        command=command_of(record),
        keys={name: manifest.key for name, manifest in parents.items()},
        configs={name: manifest.inputs.config for name, manifest in parents.items()},
    )


def command_of(record: RunRecord) -> str:
    """Return a command that leads to the results of a run: `hemaflow run --data cells.zip --recipe cnn`."""
    given = ["--config", record.run] if record.recipe == CUSTOM else ["--recipe", record.recipe]
    changed = [] if record.recipe == CUSTOM else [part for text in record.changes for part in ("--set", text)]
    pinned = ["--of", record.of] if record.of else []
    return shlex.join(["hemaflow", "run", "--data", record.data, *given, *changed, *pinned])


def report_result(parents: Mapping[str, Manifest]) -> ExtraResult:
    """Return the result that is wanted of the results that the page tells of."""
    return ExtraResult(NAME, MODULE, StageConfig(), parents, LIBRARIES, NEVER_MADE)
