"""Results and runs as the flow leaves them, without the work: contents are made up, all else is real."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from helpers.facts import train_facts
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.config.stages import PipelineConfig, StageName
from hemaflow.flows.engine.engine import Decision, Engine
from hemaflow.flows.engine.report import report_result, write_report
from hemaflow.flows.engine.run import Run
from hemaflow.flows.runs.record import RunRecord, StageRecord
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.facts import TrainFacts
from hemaflow.tasks.report.run_details import PARENTS, RUN_DETAILS, RUN_LINE

Call = Callable[..., tuple[int, str, str]]
"""The command in this process: arguments → exit code, stdout, stderr."""
METRICS = {"test": {"num_examples": 10, "accuracy": 0.9, "intervals": {"accuracy": [0.8, 0.95]}}}
NAMES: Mapping[str, Sequence[str]] = {
    "ingest": ("index.npz", "train-00000-of-00001.tfrecord"),
    "augment": ("train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"),
    "train": ("model.keras", "history.json"),
    "predict": ("images-test.csv", "probabilities-test-clean.npy"),
    "evaluate": ("metrics.json", "predictions-test.csv"),
    "submit": ("submission.zip", "proof.json"),
}


def engine(store: Store, config: Mapping[str, Any] | None = None, **arguments: Any) -> Engine:
    return Engine(store, PipelineConfig.model_validate(config or {}), "sample", Settings(), **arguments)


def make(
    stage: StageName, draft: Draft, content: bytes = b"", names: Sequence[str] = (), **facts: Any
) -> Manifest:
    """Complete a stage with objects of the names that the flow expects."""
    for name in names or NAMES[stage]:
        made = json.dumps(METRICS).encode() if name == "metrics.json" else f"{stage} {name}".encode()
        draft.put(name, made + (b"" if name == "metrics.json" else content))
    if stage == "train":
        known = {name: value for name, value in facts.items() if name in TrainFacts.model_fields}
        return draft.commit(**train_facts(**known))
    return draft.commit(stage=stage, **facts)


def report(run: Run) -> None:
    """Make the report of a run up, and write the page of the run as `execute` does."""
    wanted = report_result({name: run.manifests[name] for name in PARENTS})
    draft = Draft(run.store, wanted.inputs())
    draft.put("report.html", f"<body>{RUN_LINE}made up{RUN_DETAILS}</body>".encode())
    draft.commit()
    write_report(run.store, run.record, run.manifests, run.worker, run.settings)


def recorded(store: Store, run: str, **results: Manifest) -> RunRecord:
    """Save the record of a completed run with these results; return it."""
    made = RunRecord(
        run=run,
        status="completed",
        started="2026-01-31T09:45:00+00:00",
        data="cells",
        recipe="demo",
        needs={stage: manifest.key for stage, manifest in results.items()},
        stages=[
            StageRecord(stage=stage, key=manifest.key, state="ran", reason="", seconds=1.0)
            for stage, manifest in results.items()
        ],
    )
    made.save(store)
    return made


class Silent:
    """An observer that nobody listens to, but that counts."""

    def __init__(self) -> None:
        self.waited: list[str] = []

    def planned(self, decisions: Sequence[Decision]) -> None:
        pass

    def begins(self, decision: Decision) -> None:
        pass

    def waits(self, stage: str) -> None:
        self.waited.append(stage)

    def progresses(self, stage: str, done: int, total: int, text: str) -> None:
        pass

    def ends(self, decision: Decision, seconds: float) -> None:
        pass


def run(
    store: Store,
    config: Mapping[str, Any] | None = None,
    *,
    observer: Any = None,
    settings: Settings | None = None,
    content: bytes = b"",
    names: Mapping[str, Sequence[str]] = NAMES,
    facts: Mapping[str, Any] | None = None,
    with_report: bool = False,
    **arguments: Any,
) -> RunRecord:
    """Run a pipeline whose stages make things up, as the flow would run one that works."""
    request = RunRequest(recipe="demo", data="sample", store=store.url)
    made = Run(request, observer or Silent(), settings or Settings(), engine(store, config, **arguments))
    with made.recorded() as record:
        for stage in made.engine.stages:
            with made.decided(stage) as decision:
                manifest = None
                if decision.state == "run":
                    manifest = make(stage, decision.draft(store), content, names[stage], **(facts or {}))
                made.finish(decision, manifest)
        if with_report:
            report(made)
    return record
