"""Cached results that are not pipeline stages (verdict, drift, label errors).

Each is named after the module of `tasks/review/` that makes it, has a key, is made in a worker and is
recorded by the rules of stages. The records of the runs that it is about name it among their needs before it
is looked up, so that it is not garbage as long as one of them is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hemaflow.flows.engine.engine import Found
from hemaflow.flows.engine.worker_process import Job
from hemaflow.flows.runs.record import RunRecord, StageRecord
from hemaflow.infra.results.fingerprint import code_fingerprint, library_versions
from hemaflow.infra.results.manifest import KeyInputs, Manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.stage import StageConfig


def key_inputs(
    name: str, config: StageConfig, parents: Mapping[str, Manifest], libraries: Sequence[str]
) -> KeyInputs:
    """Return what the key of a result is made of."""
    return KeyInputs(
        stage=name,
        config=config.key_document(),
        parents={parent: manifest.digest for parent, manifest in parents.items()},
        code=code_fingerprint(f"hemaflow.tasks.review.{name}"),
        libraries=library_versions(libraries),
    )


def job(
    store: Store, config: StageConfig, inputs: KeyInputs, parents: Mapping[str, Manifest], found: Found
) -> Job:
    """Return the call that makes a result, instead of what was found of it."""
    return Job(
        module=f"hemaflow.tasks.review.{inputs.stage}",
        function="run",
        store_url=store.url,
        data="",
        manifests=dict(parents),
        config=config,
        inputs=inputs,
        replaces=found.tag,
    )


def note(record: RunRecord, manifest: Manifest, found: Found, seconds: float, never_done: str) -> None:
    """Put into a record how a result came about, instead of what was noted of a former one of its name.

    Args:
        record: The record, which is not saved.
        manifest: The result.
        found: What the store had of it before.
        seconds: How long it took.
        never_done: The reason where the store had nothing.
    """
    record.stages = [stage for stage in record.stages if stage.stage != manifest.stage]
    record.stages.append(
        StageRecord(
            stage=manifest.stage,
            key=manifest.key,
            state="ran" if found.manifest is None else "reused",
            reason=found.reason or never_done,
            seconds=round(seconds, 3),
            damaged=list(found.damaged),
        )
    )
