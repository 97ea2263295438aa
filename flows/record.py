"""What a run leaves behind: `runs/<id>.json`, from its first moment on.

A record whose status is still `running` while nothing runs is that of a run that was killed.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import UserError, nearest
from infra.fingerprint import ROOT
from infra.manifest import canonical_json, load_manifest
from infra.store import Store


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
    started: str
    seconds: float = 0.0
    data: str
    recipe: str
    changes: list[str] = Field(default_factory=list)
    config: dict[str, Any] = Field(default_factory=dict)
    stages: list[StageRecord] = Field(default_factory=list)
    metrics: dict[str, Any] = Field(default_factory=dict)
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
    """Return an id that sorts by time: `20260131-094500-3f2a`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def runs(store: Store) -> Iterator[RunRecord]:
    """Yield the records of all runs, the oldest first."""
    for name in store.list("runs/"):
        yield RunRecord.model_validate_json(store.get(name))


def find_run(store: Store, run: str = "") -> RunRecord:
    """Return the record of a run by its id or the beginning or end of it; the newest where none is named."""
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
    fit_method: str
    views: tuple[str, ...]


def trained_model(store: Store, run: str = "") -> TrainedModel:
    """Return the model of a run, or of the newest run that has one. Raises UserError."""
    candidates = [find_run(store, run)] if run else list(runs(store))[::-1]
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
