"""Finds runs by id, part of an id or `champion`, and what they produced."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hemaflow.flows.config.recipes import Recipe
from hemaflow.flows.config.recorded import recorded_config
from hemaflow.flows.runs.champion import require_champion
from hemaflow.flows.runs.record import RunRecord, read_record, runs
from hemaflow.infra.errors import UserError, nearest
from hemaflow.infra.results.manifest import load_manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.sources.images import Fit

CHAMPION = "champion"
"""A name for the run that the champion's pointer names, wherever a run can be named."""


def find_run(store: Store, run: str = "") -> RunRecord:
    """Return the record of a run by its id or the beginning or end of it; the newest where none is named.

    `champion` is the run whose model is in production.
    """
    if run == CHAMPION:
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
    return read_record(store, matches[0])


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


def recipe_of(record: RunRecord) -> Recipe:
    """Return the config of a run, and its data, as a recipe.

    Raises:
        ConfigError: Its config is none that this version of hemaflow knows.
    """
    description = f"The config of run {record.run}: {record.recipe} on {record.data}."
    return Recipe(record.run, description, description, record.data, recorded_config(record.config))
