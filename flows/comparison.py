"""The flow `backbone-comparison`: recipes, backbones and seeds on the same data, and one leaderboard.

Every member is a run of `blood-cell-training` of its own: what members share, such as shards, is computed
once. The order is that of the accuracy on the heavy mix where every member was measured on it, since clean
accuracy says little about spoiled images; else that of the clean accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from pydantic import Field

from hemaflow.flows.config.contenders import contenders
from hemaflow.flows.config.recipes import RecipeName
from hemaflow.flows.prefect_ui import pages
from hemaflow.flows.prefect_ui.artifacts import publish
from hemaflow.flows.runs.leaderboard import Member, Score, plot, rank
from hemaflow.flows.runs.record import KnownRuns, RunRecord, output_path, result_of
from hemaflow.flows.server.accelerator_slot import accelerator
from hemaflow.flows.server.supervision import supervised
from hemaflow.flows.training import SETTINGS, blood_cell_training
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import open_store
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.submit.package import run_submission, write_images


def run_name() -> str:
    """Return what a flow run is called: `demo, laptop on cells.zip`."""
    given = flow_run.parameters
    return " on ".join(filter(None, (", ".join(given.get("recipes") or ["?"]), given.get("data"))))


@flow(name="backbone-comparison", flow_run_name=run_name, persist_result=False)
def comparison(
    recipes: Annotated[tuple[RecipeName, ...], Field(min_length=1)] = ("demo",),
    backbones: tuple[str, ...] = (),
    policies: tuple[str, ...] = (),
    vary: tuple[str, ...] = (),
    seeds: Annotated[int, Field(ge=1, le=20)] = 1,
    ensembles: bool = False,
    equal_steps: bool = False,
    data: str = "",
    changes: tuple[str, ...] = (),
    store: str = "",
) -> list[Member]:
    """Train every recipe with every seed on the same data, and rank them by what counts.

    Args:
        recipes: The recipes to compare.
        backbones: Backbones that every recipe is trained with, instead of its own.
        policies: Augmentation policies that every recipe is trained with, instead of its own layers.
        vary: Fields with values that every recipe is trained with, each `stage.field=A,B,C`, such as
            augment.copies=1,2,4.
        seeds: How many seeds each is trained with, from 0 on.
        ensembles: Whether, with several seeds, the mean of the models of each is a member of its own.
        equal_steps: Whether each policy gets the epochs that make its steps those of the recipe's own layers.
        data: The source of the images; each recipe's own where empty.
        changes: Changes to the config of every recipe, each `stage.field=value`.
        store: The object store: a folder or s3://bucket/prefix; that of HEMAFLOW_STORE where empty.
    """
    with supervised():
        opened = open_store(store or SETTINGS.store)
        members = []
        for contender in contenders(
            recipes,
            backbones,
            policies,
            vary=vary,
            seeds=seeds,
            ensembles=ensembles,
            equal_steps=equal_steps,
            data=data,
            changes=changes,
            store=store,
        ):
            records = [blood_cell_training(**request.model_dump()) for request in contender.requests]
            members.append(member(opened, contender.name, records))
            if ensembles:
                averaging = contender.averaging([record.run for record in records])
                averaged = [blood_cell_training(**request.model_dump()) for request in averaging.requests]
                members.append(member(opened, averaging.name, averaged))
        ranked = rank(members)
        publish(
            "leaderboard", lambda: pages.leaderboard(ranked, plot(ranked)), "What was compared, best first"
        )
        return ranked


def member(store: Store, name: str, records: Sequence[RunRecord]) -> Member:
    """Return the row of one contender, from its runs and the speed of its submission."""
    first = records[0]
    trained, submitted = (result_of(store, first, stage) for stage in ("train", "submit"))
    return Member(
        name=name,
        runs=[record.run for record in records],
        clean=Score.over(records, "test_tta"),
        heavy=Score.over(records, "test_heavy_tta"),
        medmnistc=Score.over(records, "test_medmnistc"),
        num_parameters=trained.facts["num_parameters"],
        train_seconds=train_seconds(KnownRuns.read(store), records),
        images_per_second=measure_speed(store, first, name, trained.facts["image_size_pixels"]),
        submission_bytes=submitted.facts["size_bytes"],
    )


def train_seconds(known: KnownRuns, records: Sequence[RunRecord]) -> float | None:
    """Return the mean time that the trainings took when they were done; None where no record tells."""
    keys = {record.key("train") for record in records}
    took = {
        stage.key: stage.seconds
        for record in known.records
        for stage in record.stages
        if stage.key in keys and stage.state == "ran"
    }
    return sum(took.values()) / len(took) if took else None


@task(task_run_name="measure the speed of {name}", cache_policy=NO_CACHE, persist_result=False)
def measure_speed(store: Store, record: RunRecord, name: str, size_pixels: int) -> float:
    """Return how many images a second the submission names here once it is ready, views included."""
    zip_path = output_path(store, record, "submission")
    evaluated = result_of(store, record, "evaluate")
    if zip_path is None:
        return 0.0
    batch_size = int(evaluated.inputs.config["batch_size"])
    pixels = np.random.default_rng(0).integers(
        0, 256, (2 * batch_size, size_pixels, size_pixels, 3), np.uint8
    )
    with accelerator("evaluate", SETTINGS), scratch_folder() as folder:
        write_images(folder / "images.npy", size_pixels, [pixels])
        return run_submission(zip_path, folder / "images.npy", chunk_size=batch_size).images_per_second
