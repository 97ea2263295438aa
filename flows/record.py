"""What a run leaves behind: `runs/<id>.json`, from its first moment on.

A record whose status is still `running` while nothing runs is that of a run that was killed.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import UserError, nearest
from infra.fingerprint import ROOT
from infra.manifest import Manifest, canonical_json, load_manifest
from infra.store import Store, in_parallel
from tasks.images import Fit

RECENT = 5
"""How many runs an estimate of time is made from."""
REFERENCE = "reference"
"""What a run's need of the result of ingest is called that its reference set comes from."""
INITIAL_WEIGHTS = "initial-weights"
"""What a run's need of the result of train is called that its own training starts from."""
CHAMPION = "champion"
"""A name for the run that the champion's pointer names, wherever a run can be named."""


class StageRecord(BaseModel):
    """How one stage of a run went."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    key: str
    state: Literal["ran", "reused"]
    reason: str
    seconds: float
    damaged: list[str] = Field(
        default_factory=list, description="Objects found missing or altered at the hit."
    )


class RunRecord(BaseModel):
    """How a run went: enough to name the origin of every number and file."""

    model_config = ConfigDict(extra="forbid")

    run: str
    status: Literal["running", "completed", "failed", "interrupted"] = "running"
    of: str = Field(default="", description="The run whose results it is pinned to.")
    started: str
    seconds: float = 0.0
    data: str
    source_sha256: str = Field(default="", description="Digest of the content of the data.")
    recipe: str
    changes: list[str] = Field(default_factory=list)
    config: dict[str, Any] = Field(default_factory=dict)
    needs: dict[str, str] = Field(
        default_factory=dict, description="Stage → the key it needs, said before it is looked up."
    )
    stages: list[StageRecord] = Field(default_factory=list)
    metrics: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, str] = Field(
        default_factory=dict, description="`report`, `submission`, `label-errors` → the object that it is."
    )
    verdict: dict[str, Any] = Field(
        default_factory=dict, description="How it was judged against a champion; empty where it was not."
    )
    error: str = ""
    hemaflow: str = ""
    git_revision: str = ""

    def save(self, store: Store) -> None:
        """Write the record, replacing its former state."""
        store.put(f"runs/{self.run}.json", canonical_json(self.model_dump(mode="json")))

    def key(self, stage: str) -> str | None:
        """Return the key that this run used for a stage, or None where it did not get there."""
        return next((record.key for record in self.stages if record.stage == stage), None)


def new_run_id() -> str:
    """Return an id that sorts by time: `20260131-094500-123-3f2a`."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}-{secrets.token_hex(2)}"


def runs(store: Store) -> list[RunRecord]:
    """Return the records of all runs, the oldest first."""
    found = in_parallel(store.get_tagged, store.list("runs/"))
    # What was removed since it was listed is not there.
    return [RunRecord.model_validate_json(there[0]) for there in found if there]


@dataclass(frozen=True)
class KnownRuns:
    """What the records of a store say together.

    Attributes:
        records: All of them, the newest first.
        runs: Key → the newest run that got there.
    """

    records: Sequence[RunRecord]
    runs: Mapping[str, str]

    @classmethod
    def read(cls, store: Store) -> KnownRuns:
        """Read the records of a store."""
        records = runs(store)
        return cls(records[::-1], {s.key: record.run for record in records for s in record.stages})

    def seconds(self, stage: str, recipe: str, data: str) -> float | None:
        """Return how long a stage took lately: with that recipe and data, with that recipe, or at all."""
        for alike in (
            lambda record: (record.recipe, record.data) == (recipe, data),
            lambda record: record.recipe == recipe,
            lambda record: True,
        ):
            took = [
                ran.seconds
                for record in self.records
                for ran in record.stages
                if alike(record) and ran.stage == stage and ran.state == "ran"
            ]
            if took:
                return median(took[:RECENT])
        return None

    def keys(self, stage: str) -> list[str]:
        """Return the keys of a stage that runs got to, the newest first."""
        found = (record.key(stage) for record in self.records)
        return list(dict.fromkeys(key for key in found if key))


def find_run(store: Store, run: str = "") -> RunRecord:
    """Return the record of a run by its id or the beginning or end of it; the newest where none is named.

    `champion` is the run whose model is in production.
    """
    if run == CHAMPION:
        from flows.champion import require_champion  # which knows records itself

        run = require_champion(store).run
    ids = [name.removeprefix("runs/").removesuffix(".json") for name in store.list("runs/")]
    if not ids:
        raise UserError("There are no runs in this store.", where=store.url, remedy="Start one: hemaflow run")
    matches = [found for found in ids if found.startswith(run) or found.endswith(run)] if run else ids[-1:]
    if len(matches) != 1:
        raise UserError(
            f"{'No run is' if not matches else 'More than one run is'} called {run!r}.",
            expected=nearest(run, matches or ids[-10:]),
            where=store.url,
            remedy="List them with: hemaflow runs",
        )
    return RunRecord.model_validate_json(store.get(f"runs/{matches[0]}.json"))


def result_of(store: Store, record: RunRecord, stage: str) -> Manifest:
    """Return what a run made, or found, of a stage.

    Raises:
        UserError: It did not come so far, or the result was removed since.
    """
    key = record.key(stage)
    found = load_manifest(store, stage, key) if key else None
    if found is None:
        raise UserError(
            f"Run {record.run} has no result of {stage} in this store.",
            received=f"a run that is {record.status}",
            where=f"{store.url}/runs/{record.run}.json",
            remedy="Run the command that made it again: what is missing is computed again.",
        )
    return found[0]


def output_path(store: Store, record: RunRecord, name: str) -> Path | None:
    """Return a local file with an output of a run (`report`, `submission`); None where it has none."""
    location = record.outputs.get(name)
    if location is None:
        return None
    stage, key = location.split("/")[1:3]
    found = load_manifest(store, stage, key)
    stored = next((o for o in found[0].objects if o.location == location), None) if found else None
    return store.path(location, stored.sha256) if stored else None


@dataclass(frozen=True)
class TrainedModel:
    """What is needed to use the model of a run.

    Attributes:
        path: The local file model.keras.
        classes: Names of the labels 0, 1, …
        image_size_pixels: Height and width that it takes.
        fit_method: How ingest brought pictures that are not square to that size.
        views: The views that evaluate averaged over; the image alone where the run ended before.
    """

    path: Path
    classes: list[str]
    image_size_pixels: int
    fit_method: Fit
    views: tuple[str, ...]


def trained_model(store: Store, run: str = "") -> TrainedModel:
    """Return the model of a run, or of the newest run that has one. Raises UserError."""
    candidates = [find_run(store, run)] if run else runs(store)[::-1]
    for record in candidates:
        manifests = {
            stage.stage: found[0]
            for stage in record.stages
            if (found := load_manifest(store, stage.stage, stage.key))
        }
        if "train" in manifests and "ingest" in manifests:
            ingest, evaluate = manifests["ingest"], manifests.get("evaluate")
            return TrainedModel(
                path=manifests["train"].path(store, "model.keras"),
                classes=ingest.facts["classes"],
                image_size_pixels=ingest.facts["image_size_pixels"],
                fit_method=ingest.inputs.config["fit"],
                views=tuple(evaluate.facts["tta_views"]) if evaluate else ("identity",),
            )
    raise UserError(
        f"Run {candidates[0].run} has no model: it did not come to the end of train."
        if run and candidates
        else "No run in this store has a model.",
        where=store.url,
        remedy="Train one: hemaflow run",
    )


def git_revision() -> str:
    """Return the revision of the code, with `+` where files differ from it; "" outside a checkout."""

    def git(*args: str) -> str:
        result = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
        return result.stdout.strip() if result.returncode == 0 else ""

    try:
        revision = git("rev-parse", "--short=12", "HEAD")
        return revision + ("+" if revision and git("status", "--porcelain", "-uno") else "")
    except OSError:
        return ""
