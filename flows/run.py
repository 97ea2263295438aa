"""One run: what was asked for, how far it is, and the record it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version

from pydantic import BaseModel, ConfigDict, Field

from flows.changes import change
from flows.engine import Decision, Engine, require_manifest
from flows.observer import Observer
from flows.recipes import recipe_named
from flows.record import RunRecord, StageRecord, git_revision, new_run_id
from flows.stages import STAGES, PipelineConfig, StageName
from infra.errors import Interrupted
from infra.manifest import Manifest
from infra.settings import Settings
from infra.stores import open_store


class RunRequest(BaseModel):
    """What a run is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    recipe: str = "demo"
    """The recipe whose config is used."""
    data: str = ""
    """The source of the images; the recipe's own where empty."""
    changes: tuple[str, ...] = ()
    """Changes to the recipe's config: `stage.field=value`."""
    from_stage: StageName | str = Field(default="", pattern="^(ingest|augment|train|evaluate|submit)?$")
    """Compute this stage and all after it again."""
    until_stage: StageName = "submit"
    """Stop after this stage."""
    store: str = ""
    """The object store; that of HEMAFLOW_STORE where empty."""

    def config(self) -> PipelineConfig:
        """Return the recipe's config with the changes. Raises ConfigError."""
        return change(recipe_named(self.recipe).config, self.changes)

    def engine(self, settings: Settings) -> Engine:
        """Return the engine that decides for this request. Raises UserError."""
        return Engine(
            open_store(self.store or settings.store),
            self.config(),
            self.data or recipe_named(self.recipe).data,
            settings,
            self.from_stage,  # type: ignore[arg-type]
            self.until_stage,
        )


class Run:
    """A run under way: decides stage by stage, collects results, keeps the record.

    Args:
        request: What was asked for.
        observer: Told how it goes.
        settings: Where things are on this machine.
        engine: The engine for that request, where it was made already.
    """

    def __init__(
        self, request: RunRequest, observer: Observer, settings: Settings, engine: Engine | None = None
    ) -> None:
        self.request, self.observer, self.settings = request, observer, settings
        self.engine = engine or request.engine(settings)
        self.store = self.engine.store
        self.manifests: dict[StageName, Manifest] = {}
        self._started = self._stage_started = time.monotonic()
        self.record = RunRecord(
            run=new_run_id(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            data=self.engine.data,
            recipe=request.recipe,
            changes=list(request.changes),
            config=self.engine.config.model_dump(mode="json"),
            hemaflow=version("hemaflow"),
            git_revision=git_revision(),
        )

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

    def decide(self, stage: StageName) -> Decision:
        """Decide on a stage and tell the observer."""
        self._stage_started = time.monotonic()
        decision = self.engine.decide(stage, self.parents(stage))
        self.observer.begins(decision)
        return decision

    def parents(self, stage: StageName) -> dict[str, Manifest]:
        """Return the results that a stage builds on."""
        return {parent: self.manifests[parent] for parent in STAGES[stage].parents}

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
            self.record.metrics = json.loads(result.read(self.store, "metrics.json"))
        self.record.save(self.store)
        self.observer.ends(decision, seconds)

    def reuse_all(self) -> RunRecord:
        """Complete a run in which every stage is reused: there is nothing for Prefect to run."""
        with self.recorded() as record:
            for stage in self.engine.stages:
                self.finish(self.decide(stage))
        return record

    def _close(self, status: str, error: str = "") -> None:
        self.record.status = status  # type: ignore[assignment]
        self.record.error = error
        self.record.seconds = round(time.monotonic() - self._started, 3)
        self.record.save(self.store)
