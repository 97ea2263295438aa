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
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from hemaflow.infra.errors import UserError
from hemaflow.infra.results.fingerprint import ROOT
from hemaflow.infra.results.manifest import Manifest, canonical_json, load_manifest
from hemaflow.infra.store.base import Store, in_parallel
from hemaflow.tasks.core.run_metrics import RunMetrics

PAGES = "reports/"
"""Objects below this name are the pages of runs: each is made again from results where it is missing."""
RECENT = 5
"""How many runs an estimate of time is made from."""
REFERENCE = "reference"
"""What a run's need of the result of ingest is called that its reference set comes from."""
INITIAL_WEIGHTS = "initial-weights"
"""What a run's need of the result of train is called that its own training starts from."""


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
    config: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict, description="Stage → its config, as this version of hemaflow wrote it."
    )
    needs: dict[str, str] = Field(
        default_factory=dict, description="Stage → the key it needs, said before it is looked up."
    )
    stages: list[StageRecord] = Field(default_factory=list)
    metrics: dict[str, JsonValue] = Field(
        default_factory=dict, description="metrics.json, as this version of hemaflow wrote it."
    )
    outputs: dict[str, str] = Field(
        default_factory=dict, description="`report`, `submission`, `label-errors` → the object that it is."
    )
    verdict: dict[str, JsonValue] = Field(
        default_factory=dict, description="How it was judged against a champion; empty where it was not."
    )
    error: str = ""
    hemaflow: str = ""
    git_revision: str = ""

    def save(self, store: Store) -> None:
        """Write the record, replacing its former state."""
        store.put(f"runs/{self.run}.json", canonical_json(self.model_dump(mode="json")))

    @property
    def measured(self) -> RunMetrics:
        """The metrics as a typed model; entries that only another version of hemaflow knows are left out."""
        return RunMetrics.model_validate(self.metrics)

    def key(self, stage: str) -> str | None:
        """Return the key that this run used for a stage, or None where it did not get there."""
        return next((record.key for record in self.stages if record.stage == stage), None)


def new_run_id() -> str:
    """Return an id that sorts by time: `20260131-094500-123-3f2a`."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}-{secrets.token_hex(2)}"


def read_record(store: Store, run: str) -> RunRecord:
    """Return the record of the run with exactly this id. Raises UserError where the store has none."""
    found = store.get_tagged(f"runs/{run}.json")
    if found is None:
        raise UserError(
            f"There is no run {run} in this store.", where=store.url, remedy="List the runs: hemaflow runs"
        )
    return RunRecord.model_validate_json(found[0])


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
        """Return the median seconds that a stage took lately, on that data; None where no run tells.

        Ingest takes the same time with every recipe. Nothing is guessed from other data, which may be a
        hundred times as much, nor for the other stages from another recipe.
        """
        took = [
            ran.seconds
            for record in self.records
            if record.data == data and (record.recipe == recipe or stage == "ingest")
            for ran in record.stages
            if ran.stage == stage and ran.state == "ran"
        ]
        return median(took[:RECENT]) if took else None

    def keys(self, stage: str) -> list[str]:
        """Return the keys of a stage that runs got to, the newest first."""
        found = (record.key(stage) for record in self.records)
        return list(dict.fromkeys(key for key in found if key))


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


def page_name(run: str) -> str:
    """Return where in the store the report of a run is."""
    return f"{PAGES}{run}/report.html"


def output_path(store: Store, record: RunRecord, name: str) -> Path | None:
    """Return a local file with an output of a run (`report`, `submission`); None where it has none."""
    location = record.outputs.get(name)
    if location is None:
        return None
    if location.startswith(PAGES):
        page = store.stat(location)
        return store.path(location, page.sha256) if page else None
    stage, key = location.split("/")[1:3]
    found = load_manifest(store, stage, key)
    stored = next((o for o in found[0].objects if o.location == location), None) if found else None
    return store.path(location, stored.sha256) if stored else None


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
