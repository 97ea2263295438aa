"""The champion: the run whose model is in production.

One object names it, `pointers/champion.json`, which is replaced by compare-and-swap. The object holds the
run, the time and reason of its promotion, the ingest result whose test split is the reference set for judging
challengers, and the former champions, the newest first.

Guarantees: of two promotions at once, one succeeds and the other raises PromotionLost. A run is promoted, or
rolled back to, only if all objects of its results are complete. A rollback makes the former champion the
champion again; a second rollback goes one champion further back. The run that was rolled back from stays in
the history, marked.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hemaflow.flows.runs.record import RunRecord, read_record
from hemaflow.infra.errors import HemaflowError, PromotionLost, StoreError, UserError
from hemaflow.infra.results.manifest import Manifest, canonical_json, load_manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.ingest.reference_set import result_key

POINTER = "pointers/champion.json"
MAX_HISTORY = 20
"""How many former champions are kept, and with them the results of their runs."""
NEEDED = ("ingest", "train", "evaluate")
"""The stages without whose results a model cannot be used, nor judged against another."""


class Entry(BaseModel):
    """A run that is the champion, or was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    promoted: str = Field(description="When, in ISO 8601.")
    reason: str
    reference: str = Field(
        default="", description="Key of the result of ingest whose test split is its reference set."
    )
    restored: str = Field(default="", description="When a rollback made it champion again.")
    rolled_back: str = Field(default="", description="When a rollback ended it: it is not gone back to.")


class Champion(Entry):
    """The champion and those before it."""

    history: tuple[Entry, ...] = ()
    tag: str = Field(
        default="", exclude=True, description="Entity tag that it was read with; empty in one just written."
    )

    def entry(self) -> Entry:
        """Return it as an entry of a history."""
        return Entry(**self.model_dump(exclude={"history"}))


def current(store: Store) -> Champion | None:
    """Return the champion with the entity tag of its pointer, or None where no run was promoted."""
    found = store.get_tagged(POINTER)
    if found is None:
        return None
    data, tag = found
    try:
        return Champion.model_validate_json(data).model_copy(update={"tag": tag})
    except ValidationError as error:
        raise StoreError(
            "The champion's pointer cannot be read.",
            received=f"{error.error_count()} errors, the first: {error.errors()[0]['msg']}",
            where=f"{store.url}/{POINTER}",
            remedy="Use the hemaflow that wrote it, or remove that object and promote a run again.",
        ) from error


def require_champion(store: Store) -> Champion:
    """Return the champion. Raises UserError where there is none."""
    champion = current(store)
    if champion is None:
        raise UserError(
            "There is no champion in this store: no run was promoted.",
            where=store.url,
            remedy="Promote one: hemaflow champion promote RUN (see `hemaflow runs`).",
        )
    return champion


def promote(store: Store, record: RunRecord, reason: str, seen_tag: str = "") -> Champion:
    """Make a run the champion, if the champion is still the one that was seen.

    Args:
        store: The store.
        record: The run.
        reason: Why, in words.
        seen_tag: Entity tag of the pointer when the decision was made (`current(store).tag`); "" where there
            was no champion.

    Raises:
        UserError: The run is champion already, or its results are not all there.
        PromotionLost: Another promotion came first.
    """
    ingest = _whole_results(store, record)["ingest"]
    former = current(store)
    if former and former.run == record.run:
        raise UserError(f"Run {record.run} is the champion already.", where=f"{store.url}/{POINTER}")
    champion = Champion(
        run=record.run,
        promoted=_now(),
        reason=reason,
        # A set that is itself a test split of another result stays that one, however many come after it.
        reference=result_key(ingest.inputs.config.get("reference", "")) or ingest.key,
        history=(former.entry(), *former.history)[:MAX_HISTORY] if former else (),
    )
    return _write(store, champion, seen_tag)


def rollback(store: Store) -> Champion:
    """Make the champion before this one champion again; return it.

    The one that was rolled back from stays in the history, marked: a second rollback goes on to the one
    before.

    Raises:
        UserError: There is none before it, or its results are not all there any more.
        PromotionLost: A promotion came first.
    """
    champion = require_champion(store)
    before = next((entry for entry in champion.history if not entry.rolled_back), None)
    if before is None:
        raise UserError(
            f"There is no champion before run {champion.run} to go back to.",
            where=f"{store.url}/{POINTER}",
            remedy="Promote another run: hemaflow champion promote RUN (see `hemaflow runs`).",
        )
    _whole_results(store, read_record(store, before.run))
    ended = champion.entry().model_copy(update={"rolled_back": _now()})
    restored = Champion(
        **before.model_dump(exclude={"restored"}),
        restored=_now(),
        history=(ended, *(entry for entry in champion.history if entry is not before))[:MAX_HISTORY],
    )
    return _write(store, restored, champion.tag)


def _write(store: Store, champion: Champion, seen_tag: str) -> Champion:
    data = canonical_json(champion.model_dump(mode="json"))
    if not (store.swap(POINTER, data, seen_tag) if seen_tag else store.create(POINTER, data)):
        raise _lost(store)
    return champion


def _lost(store: Store) -> PromotionLost:
    now = current(store)
    return PromotionLost(
        f"Another promotion came first: run {now.run}." if now else "The champion's pointer was removed.",
        where=f"{store.url}/{POINTER}",
        remedy="Compare with that one, and promote again if it is still right: hemaflow champion show",
    )


def _whole_results(store: Store, record: RunRecord) -> dict[str, Manifest]:
    """Return the results of a run, every object of them checked. Raises UserError where one is not whole."""

    def refused(why: str) -> HemaflowError:
        return UserError(
            f"Run {record.run} cannot be champion: {why}.",
            where=store.url,
            remedy="Run the command that made it again, and promote that run, or another: hemaflow runs",
        )

    if record.status != "completed":
        raise refused(f"it is {record.status}, not completed")
    if store.get_tagged(f"runs/{record.run}.json") is None:
        raise refused("this store has no record of it")
    results: dict[str, Manifest] = {}
    for stage in dict.fromkeys([*NEEDED, *(stage.stage for stage in record.stages)]):
        key = record.key(stage)
        if key is None:
            raise refused(f"it did not come to the end of {stage}")
        found = load_manifest(store, stage, key)
        if found is None:
            raise refused(f"the result of {stage} is not in the store")
        if damaged := found[0].problems(store):
            raise refused(f"the result of {stage} is damaged: {', '.join(damaged.values())}")
        results[stage] = found[0]
    return results


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
