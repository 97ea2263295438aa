"""Publishes the pages and the progress of a run as artifacts in Prefect's UI.

Artifacts are for people: one that cannot be published is a warning in the log, never the end of a run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from hemaflow.flows.engine.engine import Decision
from hemaflow.flows.engine.run import Run
from hemaflow.flows.prefect_ui import pages
from hemaflow.tasks.core.facts import EvaluateFacts, IngestFacts
from hemaflow.tasks.ingest.findings import read_findings

UPDATE_SECONDS = 2.0
"""How often a progress artifact is brought up to date."""

log = logging.getLogger(__name__)


def publish(key: str, page: Callable[[], str], description: str = "") -> None:
    """Publish a page under a key: lowercase letters, digits and dashes."""
    with _warned(key):
        create_markdown_artifact(page(), key=key, description=description or None)


class ArtifactObserver:
    """An observer that keeps one progress artifact for each stage that runs, and publishes what came of it.

    Args:
        run: The run that is watched.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._progress: dict[str, UUID] = {}
        self._updated: dict[str, float] = {}

    def planned(self, decisions: Sequence[Decision]) -> None:
        """See Observer."""
        estimates = self._run.engine.estimates(decisions, self._run.request.recipe)
        publish("plan", lambda: pages.plan(decisions, estimates), "What runs, what is reused, and why")

    def begins(self, decision: Decision) -> None:
        """See Observer."""
        if decision.state == "run":
            with _warned(decision.stage):
                made = create_progress_artifact(
                    0.0, key=f"progress-{decision.stage}", description=f"{decision.stage}: begins"
                )
                self._progress[decision.stage] = cast(UUID, made)  # not a coroutine: nobody awaits here

    def waits(self, stage: str) -> None:
        """See Observer."""

    def progresses(self, stage: str, done: int, total: int, text: str) -> None:
        """See Observer."""
        now = time.monotonic()
        if stage in self._progress and now - self._updated.get(stage, 0.0) >= UPDATE_SECONDS:
            self._updated[stage] = now
            self._update(stage, 100.0 * done / max(total, 1), f"{stage}: {done}/{total} {text}")

    def ends(self, decision: Decision, seconds: float) -> None:
        """See Observer."""
        stage = decision.stage
        if stage in self._progress:
            self._update(stage, 100.0, f"{stage}: done in {seconds:.1f} s")
        manifest, store = self._run.manifests[stage], self._run.store
        if stage == "ingest":
            publish(
                "data-quality",
                lambda: pages.findings(IngestFacts.of(manifest), read_findings(store, manifest)),
                "Images and findings",
            )
        if stage == "evaluate":
            document, facts = self._run.record.measured, EvaluateFacts.of(manifest)
            views = pages.views(facts.tta, facts.tta_views, facts.tta_reason)
            publish("metrics", lambda: pages.metrics(document, views), "How good the model is")

    def finished(self) -> None:
        """The run is complete: publish its lineage and its outputs."""
        run = self._run
        publish("lineage", lambda: pages.lineage(run.record, run.manifests), "What was made from what")
        if run.record.outputs:
            publish("outputs", lambda: pages.outputs(run.record, run.store.url), "Report and submission")

    def _update(self, stage: str, percent: float, description: str) -> None:
        with _warned(stage):
            update_progress_artifact(self._progress[stage], percent, description)


@contextmanager
def _warned(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("The artifact %s could not be published: %s", what, type(error).__name__)
