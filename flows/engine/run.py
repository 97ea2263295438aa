"""One run: what was asked for, how far it is, and the record it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

from hemaflow.flows.config.request import CUSTOM, RunRequest
from hemaflow.flows.config.stages import STAGES, PipelineConfig, StageName
from hemaflow.flows.engine.engine import Decision, Engine, require_manifest
from hemaflow.flows.engine.exclusive import exclusive
from hemaflow.flows.engine.observer import Observer
from hemaflow.flows.engine.open import open_engine
from hemaflow.flows.engine.worker_process import StageWorker, WorkerPool
from hemaflow.flows.runs.record import (
    INITIAL_WEIGHTS,
    REFERENCE,
    RunRecord,
    StageRecord,
    git_revision,
    new_run_id,
)
from hemaflow.infra.errors import Interrupted
from hemaflow.infra.results.draft import Progress
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import in_parallel
from hemaflow.tasks.core import result_names
from hemaflow.tasks.ingest import reference_set

OUTPUTS: dict[str, tuple[StageName, str]] = {
    "submission": ("submit", "submission.zip"),
}
"""What a person wants of a run → the stage that makes it, and what it is called there. The report is an extra
result (`flows/engine/report.py`)."""


class Run:
    """A run under way: decides stage by stage, collects results, keeps the record.

    Args:
        request: What was asked for.
        observer: Notified of its progress.
        settings: Where things are on this machine.
        engine: The engine for that request, where it was made already.
    """

    def __init__(
        self, request: RunRequest, observer: Observer, settings: Settings, engine: Engine | None = None
    ) -> None:
        self.request, self.observer, self.settings = request, observer, settings
        self.engine = engine or open_engine(request, settings)
        self.store = self.engine.store
        self.worker = StageWorker()
        self.shard_workers = WorkerPool(settings.workers)
        self.manifests: dict[str, Manifest] = {}
        self._planned: dict[StageName, Decision] = {}
        self._started = self._stage_started = time.monotonic()
        self.record = RunRecord(
            run=new_run_id(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            data=self.engine.data,
            source_sha256=self.engine.source_sha256,
            needs=_named_needs(self.engine.config),
            of=self.engine.pins.run,
            recipe=CUSTOM if request.config else request.recipe,
            changes=list(request.changes),
            config=self.engine.config.model_dump(mode="json"),
            hemaflow=version("hemaflow"),
            git_revision=git_revision(),
        )

    def __enter__(self) -> Run:
        """Use the run; its worker processes start when they are first needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the worker processes."""
        self.worker.__exit__()
        self.shard_workers.stop()

    def plan(self) -> list[Decision]:
        """Decide for every stage and verify what is reused; writes nothing.

        Raises:
            UserError: What was asked for cannot be done.
        """
        decisions = self.engine.plan()
        self._planned = {decision.stage: decision for decision in decisions if decision.state == "reuse"}
        self.record.needs |= {d.stage: d.inputs.key for d in decisions if d.inputs}
        return decisions

    def confirm(self, decisions: list[Decision]) -> None:
        """Rely on a plan once the saved record names what it reuses: from then on none of that is garbage.

        A result that garbage collection removed before that is planned anew.
        """
        while not self._all_there():
            decisions = self.plan()
            self.record.save(self.store)
        self.observer.planned(decisions)

    def _all_there(self) -> bool:
        reused = [require_manifest(decision) for decision in self._planned.values()]
        found = in_parallel(lambda m: load_manifest(self.store, m.stage, m.key), reused)
        return [there[0] for there in found if there] == reused

    def progress(self, stage: StageName) -> Progress:
        """Return what notifies the observer of the progress of a stage."""
        return lambda done, total, text: self.observer.progresses(stage, done, total, text)

    @contextmanager
    def recorded(self) -> Iterator[RunRecord]:
        """Keep the record from the first moment to the last, whatever happens in between."""
        self.record.save(self.store)
        try:
            yield self.record
        except BaseException as error:
            stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
            self._close("interrupted" if stopped else "failed", str(error) or type(error).__name__)
            raise
        self._close("completed")

    def _decide(self, stage: StageName) -> Decision:
        parents = self.parents(stage)
        self._need({stage: self.engine.inputs(stage, parents).key})
        return self.engine.decide(stage, parents)

    @contextmanager
    def decided(self, stage: StageName) -> Iterator[Decision]:
        """Decide on a stage. Where another run is making it, wait for that one's result, or its end."""
        self._stage_started = time.monotonic()
        decision = self._planned.get(stage) or self._decide(stage)
        with ExitStack() as held:
            if decision.state == "run":
                made = held.enter_context(
                    exclusive(
                        self.store,
                        decision.draft(self.store).folder,
                        self.settings.lease_seconds,
                        look=lambda: self._reusable(stage),
                        waits=lambda: self.observer.waits(stage),
                    )
                )
                decision = made or self._decide(stage)
            self.observer.begins(decision)
            yield decision

    def _reusable(self, stage: StageName) -> Decision | None:
        """Return the decision to reuse what another run made of a stage; None where it is not complete."""
        decision = self._decide(stage)
        if decision.state == "run":
            return None
        return replace(decision, reason=f"made by another run meanwhile; {decision.reason}")

    def parents(self, stage: StageName) -> dict[str, Manifest]:
        """Return the results that a stage builds on, so much of each as it reads."""
        made = STAGES[stage]
        return {parent: made.reads_of(self.manifests[parent]) for parent in made.parents}

    def finish(self, decision: Decision, manifest: Manifest | None = None) -> None:
        """Take in a complete stage: the one that was made, or the one that is reused."""
        result = manifest or require_manifest(decision)
        seconds = time.monotonic() - self._stage_started
        self.manifests[decision.stage] = result
        self.record.stages.append(
            StageRecord(
                stage=decision.stage,
                key=result.key,
                state="reused" if manifest is None else "ran",
                reason=decision.reason,
                seconds=round(seconds, 3),
                damaged=list(decision.damaged),
            )
        )
        if decision.stage == "evaluate":
            # What is reused was verified when it was decided on.
            stored = result.object("metrics.json")
            data = (
                self.store.get(stored.location) if manifest is None else result.read(self.store, stored.name)
            )
            self.record.metrics = json.loads(data)
        for name, (stage, output) in OUTPUTS.items():
            if stage == decision.stage:
                self.record.outputs[name] = result.object(output).location
        self.observer.ends(decision, seconds)

    def _need(self, keys: Mapping[str, str]) -> None:
        """Say which results this run needs before it looks for them: from then on none is garbage."""
        if not keys.items() <= self.record.needs.items():
            self.record.needs |= keys
            self.record.save(self.store)

    def _close(self, status: str, error: str = "") -> None:
        self.record.status = status  # type: ignore[assignment]
        self.record.error = error
        self.record.seconds = round(time.monotonic() - self._started, 3)
        self.record.save(self.store)


def _named_needs(config: PipelineConfig) -> dict[str, str]:
    """Return the results that a config names as needs of their own: reference set and other runs' models."""
    named = {
        REFERENCE: reference_set.result_key(config.ingest.reference),
        INITIAL_WEIGHTS: result_names.result_key(config.train.initial_weights),
        **{
            f"member-{number}": result_names.result_key(member)
            for number, member in enumerate(config.train.ensemble_of, start=1)
        },
    }
    return {name: key for name, key in named.items() if key}
