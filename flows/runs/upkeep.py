"""Upkeep of a store: checking all that it holds, and removing what nobody needs."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from hemaflow.flows.runs.record import PAGES, RunRecord, runs
from hemaflow.infra.errors import ObjectMissing
from hemaflow.infra.results.manifest import Manifest, StoredObject, load_manifest
from hemaflow.infra.store.base import Entry, Store, in_parallel
from hemaflow.tasks.ingest import parts

POINTERS = "pointers/"
"""Objects below this name runs (`run`, and `run` of each entry of `history`), which are kept as long."""


@dataclass(frozen=True)
class Damage:
    """An object that is not as its manifest recorded it."""

    manifest: Manifest
    stored: StoredObject
    problem: str


def verify(store: Store, *, deep: bool = False) -> tuple[list[Damage], int]:
    """Check every object of every complete result.

    Args:
        store: The store.
        deep: Read every byte, instead of going by size and stored checksum.

    Returns:
        What is damaged, and how many objects were checked.
    """
    manifests = [
        found for found in in_parallel(lambda key: load_manifest(store, *key), _results(store)) if found
    ]
    objects = [(manifest, stored) for manifest, _ in manifests for stored in manifest.objects]

    def check(item: tuple[Manifest, StoredObject]) -> str:
        return _read(store, item[1]) if deep else item[1].problem(store)

    problems = in_parallel(check, objects)
    damage = [Damage(*item, problem) for item, problem in zip(objects, problems, strict=True) if problem]
    return damage, len(objects)


@dataclass(frozen=True)
class Garbage:
    """What a collection removes, or would.

    Attributes:
        runs: Records of runs.
        results: Complete results, as `stage key`.
        objects: Objects, manifests and records included.
        size_bytes: Of all of them.
    """

    runs: Sequence[str]
    results: Sequence[str]
    objects: int
    size_bytes: int


def collect_garbage(
    store: Store,
    *,
    keep_runs: int | None = None,
    older_than_seconds: float | None = None,
    grace_seconds: float,
    dry_run: bool = False,
) -> Garbage:
    """Remove what no kept run, no pointer and no work under way needs.

    A result goes in this order: first its manifest, so that nobody finds a complete result without its
    objects; then, unless a run has come to need it in between, its objects. A run says what it needs before
    it looks.

    Args:
        store: The store.
        keep_runs: How many runs to keep, the newest; None for all.
        older_than_seconds: Drop runs that began longer ago; None for none.
        grace_seconds: Whatever was written since then is left alone: somebody may be at work on it.
        dry_run: Only say what would go.
    """
    now = time.time()
    begun = now - grace_seconds
    written = {entry.name: entry for entry in store.entries("runs/")}
    records = runs(store)
    pointed = _pointed_runs(store)
    dropped = [
        record
        for place, record in enumerate(reversed(records))
        if record.run not in pointed
        and not (record.status == "running" and _is_young(written.get(_record_name(record)), begun))
        and (
            (keep_runs is not None and place >= keep_runs)
            or (older_than_seconds is not None and _age(record, now) > older_than_seconds)
        )
    ]
    kept = [record for record in records if record not in dropped]
    doomed, spare = _unneeded(store, kept, begun)
    going = [entry for entries in doomed.values() for entry in entries]
    gone = [written[name] for record in dropped if (name := _record_name(record)) in written]
    size_bytes = sum(entry.size_bytes for entry in [*going, *spare, *gone])
    results = [f"{stage} {key}" for (stage, key), entries in doomed.items() if _manifest_in(entries)]
    found = Garbage(
        [record.run for record in dropped], results, len(going) + len(spare) + len(dropped), size_bytes
    )
    if dry_run:
        return found
    promoted = _pointed_runs(store)  # while we looked
    dropped = [record for record in dropped if record.run not in promoted]
    store.delete(map(_record_name, dropped))
    store.delete(entry.name for entry in spare)
    _remove_results(store, doomed, {record.run for record in dropped})
    gone_runs = [record.run for record in dropped]
    return Garbage(gone_runs, found.results, found.objects, size_bytes + store.drop_unfinished_writes(begun))


def _unneeded(
    store: Store, kept: Sequence[RunRecord], begun: float
) -> tuple[dict[tuple[str, str], list[Entry]], list[Entry]]:
    """Return the results that no run needs, and what lies unused beside others: all older than the grace."""
    needed = {key for record in kept for key in record.needs.values()}
    results: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in store.entries("stages/"):
        stage, key = entry.name.split("/")[1:3]
        results[stage, key].append(entry)
    spare = [entry for entry in store.entries("probes/") if entry.modified < begun]
    runs_kept = {record.run for record in kept}
    spare += [
        entry
        for entry in store.entries(PAGES)
        if entry.modified < begun and entry.name.split("/")[1] not in runs_kept
    ]
    spare += _unused_parts(store, needed, results, begun)
    for (stage, key), entries in list(results.items()):
        if key not in needed:
            if any(entry.modified >= begun for entry in entries):
                del results[stage, key]
            continue
        del results[stage, key]
        complete = load_manifest(store, stage, key) if _manifest_in(entries) else None
        if complete:  # of one that is not, everything may serve the run that goes on with it
            used = {stored.location for stored in complete[0].objects} | {_manifest_in(entries)}
            spare += [entry for entry in entries if entry.name not in used and entry.modified < begun]
    return dict(results), spare


def _unused_parts(
    store: Store, needed: set[str], results: Mapping[tuple[str, str], Sequence[Entry]], begun: float
) -> list[Entry]:
    """Return the parts that no result uses that a run needs, complete or not: all older than the grace."""
    entries = list(store.entries(parts.FOLDER))
    of_needed = {f"{parts.USES}{key}.json" for key in needed}
    uses = [entry.name for entry in entries if entry.name in of_needed]
    committed = [
        entry.name
        for (_, key), of_result in results.items()
        if key in needed
        for entry in of_result
        if entry.name.split("/")[3] == "parts"
    ]
    used = set(uses)
    for found in in_parallel(store.get_tagged, uses):
        used.update(json.loads(found[0]) if found else ())
    for found in in_parallel(store.get_tagged, committed):
        used.update([StoredObject.model_validate_json(found[0]).location] if found else ())
    return [entry for entry in entries if entry.name not in used and entry.modified < begun]


def _remove_results(store: Store, doomed: dict[tuple[str, str], list[Entry]], dropped: set[str]) -> None:
    """Remove results, but leave those that a run has come to need since they were looked at."""
    manifests = {name: store.get(name) for name in filter(None, map(_manifest_in, doomed.values()))}
    store.delete(manifests)
    needs = _Needs(store, dropped)

    def spared(keys: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        now = needs.now()
        found = {(stage, key) for stage, key in keys if key in now}
        for manifest in filter(None, (_manifest_in(doomed[key]) for key in found)):
            store.create(manifest, manifests[manifest])
        return found

    for key in doomed.keys() - spared(doomed):
        # Asked anew for each: a run may begin while many are removed.
        if not spared([key]):
            store.delete(entry.name for entry in doomed[key] if not entry.name.endswith("/manifest.json"))


class _Needs:
    """The keys that runs need, from moment to moment; a record is read again when it changed."""

    def __init__(self, store: Store, dropped: set[str]) -> None:
        self._store, self._dropped = store, {f"runs/{run}.json" for run in dropped}
        self._read: dict[Entry, set[str]] = {}

    def now(self) -> set[str]:
        """Return what the records say at this moment."""
        entries = [entry for entry in self._store.entries("runs/") if entry.name not in self._dropped]
        changed = [entry for entry in entries if entry not in self._read]
        found = in_parallel(lambda entry: self._store.get_tagged(entry.name), changed)
        for entry, there in zip(changed, found, strict=True):
            needs = RunRecord.model_validate_json(there[0]).needs if there else {}
            self._read[entry] = set(needs.values())
        return set().union(*(self._read[entry] for entry in entries))


def _results(store: Store) -> list[tuple[str, str]]:
    names = (name.split("/") for name in store.list("stages/"))
    return [(parts[1], parts[2]) for parts in names if parts[3:] == ["manifest.json"]]


def _read(store: Store, stored: StoredObject) -> str:
    """Return what is wrong with an object, all of which is read."""
    try:
        # What was damaged on its way is as it should be the next time.
        right = any(store.content_sha256(stored.location) == stored.sha256 for _ in range(2))
    except ObjectMissing:
        return f"{stored.name} is missing"
    return "" if right else f"{stored.name} was altered"


def _manifest_in(entries: Iterable[Entry]) -> str:
    return next((entry.name for entry in entries if entry.name.endswith("/manifest.json")), "")


def _pointed_runs(store: Store) -> set[str]:
    """Return the runs that pointers name, and those that they named before."""
    pointers = [json.loads(store.get(name)) for name in store.list(POINTERS)]
    return {str(entry.get("run")) for pointer in pointers for entry in (pointer, *pointer.get("history", ()))}


def _record_name(record: RunRecord) -> str:
    return f"runs/{record.run}.json"


def _is_young(entry: Entry | None, begun: float) -> bool:
    """Whether an object was written since the grace began; what was not listed yet was."""
    return entry is None or entry.modified >= begun


def _age(record: RunRecord, now: float) -> float:
    return now - datetime.fromisoformat(record.started).timestamp()
