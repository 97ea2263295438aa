"""Lineage: what a result was made from, what was made from it, and which runs used it.

Results point to their parents by the digest of the content: results of the same content under several keys
stand for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from hemaflow.flows.config.stages import STAGE_NAMES, STAGES
from hemaflow.flows.runs.record import RunRecord, runs
from hemaflow.flows.runs.why import causes, config_changes
from hemaflow.infra.results.manifest import Manifest, StoredObject, load_manifest
from hemaflow.infra.store.base import Store, in_parallel
from hemaflow.tasks.evaluate.metrics import METRICS

MIN_KEY_LETTERS = 4


@dataclass(frozen=True)
class Lineage:
    """All complete results and all runs of a store.

    Attributes:
        manifests: Key → result.
        records: The runs, the oldest first.
    """

    manifests: dict[str, Manifest]
    records: Sequence[RunRecord]

    @classmethod
    def read(cls, store: Store) -> Lineage:
        """Read what a store knows."""
        names = [name.split("/") for name in store.list("stages/") if name.endswith("/manifest.json")]
        found = in_parallel(lambda parts: load_manifest(store, parts[1], parts[2]), names)
        return cls({there[0].key: there[0] for there in found if there}, runs(store))

    def with_key(self, beginning: str) -> list[Manifest]:
        """Return the results whose keys begin like that."""
        if len(beginning) < MIN_KEY_LETTERS:
            return []
        return [manifest for key, manifest in self.manifests.items() if key.startswith(beginning)]

    def parents(self, manifest: Manifest) -> list[Manifest]:
        """Return the results that it was made from, whatever they are called among its inputs."""
        wanted = set(manifest.inputs.parents.values())
        return [other for other in self.manifests.values() if wanted & digests(other)]

    def children(self, manifest: Manifest) -> list[Manifest]:
        """Return the results that were made from it."""
        own = digests(manifest)
        return [other for other in self.manifests.values() if own & set(other.inputs.parents.values())]

    def uses(self, key: str) -> Iterator[tuple[RunRecord, str]]:
        """Yield the runs that made or reused a result, and which of the two."""
        for record in self.records:
            for stage in record.stages:
                if stage.key == key:
                    yield record, stage.state

    def origins(self, record: RunRecord) -> dict[str, str]:
        """Return, for each stage of a run, the run that made its result last; absent where none is known."""
        made = {
            stage.stage: [user.run for user, state in self.uses(stage.key) if state == "ran"]
            for stage in record.stages
        }
        return {stage: makers[-1] for stage, makers in made.items() if makers}

    def users(self, record: RunRecord) -> list[str]:
        """Return the runs that reused what a run made."""
        made = {stage.key for stage in record.stages if stage.state == "ran"}
        return [
            other.run
            for other in self.records
            if any(stage.key in made and stage.state == "reused" for stage in other.stages)
        ]

    def with_content(self, sha256: str) -> Iterator[tuple[Manifest, StoredObject]]:
        """Yield the objects with that content, each with the result that it is part of."""
        for manifest in self.manifests.values():
            for stored in manifest.objects:
                if stored.sha256 == sha256:
                    yield manifest, stored


def digests(manifest: Manifest) -> set[str]:
    """Return what stands for a result among the inputs of others: its digest, and those of its excerpts."""
    return {manifest.digest, *(stage.reads_of(manifest).digest for stage in STAGES.values())}


class Difference(TypedDict):
    """How two runs differ.

    Attributes:
        runs: The ids of both.
        config: Field, `data` or `recipe` → the values of both.
        stages: Stage → `same`, why one has no result, or the causes for which its key differs.
        metrics: Name → the values of both.
    """

    runs: list[str]
    config: Mapping[str, Sequence[object]]
    stages: dict[str, str | list[str]]
    metrics: Mapping[str, Sequence[float | None]]


def difference(store: Store, one: RunRecord, other: RunRecord) -> Difference:
    """Return how two runs differ: data and recipe, config, every stage's causes, and metrics."""
    stages: dict[str, str | list[str]] = {}
    # A run's other needs are no stages of its own: a difference in them is one of the stage that reads them.
    reached = {stage.stage for record in (one, other) for stage in record.stages} | set(STAGE_NAMES)
    for stage in dict.fromkeys([*one.needs, *other.needs]):
        if stage not in reached:
            continue
        keys = one.key(stage), other.key(stage)
        if None in keys:
            got_there = [record.run for record, key in zip((one, other), keys, strict=True) if key]
            stages[stage] = f"only run {got_there[0]} got there" if got_there else "neither run got there"
        elif keys[0] == keys[1]:
            stages[stage] = "same"
        else:
            found = [load_manifest(store, stage, key) for key in keys if key]
            manifests = [there[0] for there in found if there]
            stages[stage] = (
                list(causes(manifests[0].inputs, manifests[1].inputs))
                if len(manifests) == 2
                else "a result was removed from the store"
            )
    measured = [record.measured for record in (one, other)]
    return {
        "runs": [one.run, other.run],
        "config": {
            "data": [one.data, other.data],
            "recipe": [one.recipe, other.recipe],
            **dict(config_changes(one.config, other.config)),
        },
        "stages": stages,
        "metrics": {
            f"{entry} {name}": values
            for entry in dict.fromkeys(name for each in measured for name in each.measured())
            for name in METRICS
            if (values := [getattr(each.entry(entry), name, None) for each in measured]) != [None, None]
        },
    }
