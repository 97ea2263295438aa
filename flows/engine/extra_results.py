"""Cached results that are not pipeline stages: report, verdict, drift and label errors.

A module of `tasks/report/` or `tasks/review/` makes each of them. They follow the rules of stages. The key is
made of config, parents, code and libraries. `obtain` looks the key up and returns the result if it is
complete. Otherwise it takes the lease of the key, so that no other run makes the same result meanwhile, makes
the result in a worker process, and records how it came about. If the store cannot be reached, `obtain` tries
all of it again.

Garbage collection keeps the result as long as it keeps one of the runs that the result describes. For that,
`obtain` writes the key into the records of these runs before it looks for the result.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hemaflow.flows.engine.engine import Found, look_up
from hemaflow.flows.engine.exclusive import exclusive
from hemaflow.flows.engine.retries import with_retries
from hemaflow.flows.engine.worker_process import Job, StageWorker
from hemaflow.flows.runs.record import RunRecord, StageRecord
from hemaflow.infra.results.draft import Draft, Progress, silent
from hemaflow.infra.results.fingerprint import code_fingerprint, library_versions, words
from hemaflow.infra.results.manifest import KeyInputs, Manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.stage import StageConfig


@dataclass(frozen=True)
class ExtraResult:
    """A result that is wanted.

    Attributes:
        name: What it is called in the store.
        module: The module of ours that makes it.
        config: Its config.
        parents: What it is made from.
        libraries: Distributions whose version is part of its key.
        never_made: The reason for making it where the store has nothing of it.
    """

    name: str
    module: str
    config: StageConfig
    parents: Mapping[str, Manifest]
    libraries: Sequence[str]
    never_made: str

    def inputs(self) -> KeyInputs:
        """Return what its key is made of."""
        config = self.config.key_document()
        return KeyInputs(
            stage=self.name,
            config=config,
            parents={parent: manifest.digest for parent, manifest in self.parents.items()},
            code=code_fingerprint(self.module, words(config)),
            libraries=library_versions(self.libraries),
        )


def obtain(
    extra: ExtraResult,
    store: Store,
    records: Sequence[RunRecord],
    worker: StageWorker,
    settings: Settings,
    progress: Progress = silent,
) -> Manifest:
    """Return an extra result: the one in the store, or one that is made now.

    Args:
        extra: What is wanted.
        store: Where it is, or is written.
        records: The runs that it is about; each is saved with what it needs, and how the result came about.
        worker: Makes it, where it is missing.
        settings: How long a worker may take, and how long a lease lasts.
        progress: Notified of the progress.

    Raises:
        StageError: The worker could not do its work.
        StoreUnavailable: The store was away, at every try.
    """
    started = time.monotonic()
    inputs = extra.inputs()
    for record in records:
        record.needs[extra.name] = inputs.key
        record.save(store)
    found, manifest = with_retries(lambda: _find_or_make(extra, inputs, store, worker, settings, progress))
    for record in records:
        record.stages = [stage for stage in record.stages if stage.stage != extra.name]
        record.stages.append(
            StageRecord(
                stage=extra.name,
                key=inputs.key,
                state="ran" if found.manifest is None else "reused",
                reason=found.reason or extra.never_made,
                seconds=round(time.monotonic() - started, 3),
                damaged=list(found.damaged),
            )
        )
        record.save(store)
    return manifest


def _find_or_make(
    extra: ExtraResult,
    inputs: KeyInputs,
    store: Store,
    worker: StageWorker,
    settings: Settings,
    progress: Progress,
) -> tuple[Found, Manifest]:
    """Return what the store had of a result, and the result."""
    found = look_up(store, inputs)
    if found.manifest is not None:
        return found, found.manifest

    def complete() -> Found | None:
        again = look_up(store, inputs)
        return again if again.manifest is not None else None

    with exclusive(store, Draft(store, inputs).folder, settings.lease_seconds, complete) as made:
        found = made or look_up(store, inputs)
        if found.manifest is not None:
            return found, found.manifest
        job = Job(
            module=extra.module,
            function="run",
            store_url=store.url,
            data="",
            manifests=dict(extra.parents),
            config=extra.config,
            inputs=inputs,
            replaces=found.tag,
        )
        return found, worker.make(job, settings.stage_timeout_seconds, progress)
