"""Comparison: recipes, backbones, policies and seeds on the same data, and one leaderboard.

Every member is a run of its own: what members share, such as shards, is computed once. The order is that of
the accuracy on the heavy mix where every member was measured on it, since clean accuracy says little about
spoiled images; else that of the clean accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hemaflow.flows.config.contenders import contenders
from hemaflow.flows.prefect_ui import pages
from hemaflow.flows.runs.leaderboard import Member, Score, plot, rank
from hemaflow.flows.runs.record import KnownRuns, RunRecord, output_path, result_of
from hemaflow.flows.workflows.host import Host
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import open_store
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.submit.package import run_submission, write_images


def compare(
    host: Host,
    *,
    recipes: Sequence[str] = ("demo",),
    backbones: Sequence[str] = (),
    policies: Sequence[str] = (),
    vary: Sequence[str] = (),
    seeds: int = 1,
    ensembles: bool = False,
    equal_steps: bool = False,
    data: str = "",
    changes: Sequence[str] = (),
    store: str = "",
) -> list[Member]:
    """Train every recipe with every seed on the same data, and return the leaderboard, the best first.

    Args:
        host: Carries it out.
        recipes: See `contenders`, as all that follow.
        backbones: Backbones.
        policies: Augmentation policies.
        vary: Fields with values, each `stage.field=A,B,C`.
        seeds: Number of random seeds.
        ensembles: Also average the models of all seeds.
        equal_steps: Give every policy the same number of optimizer steps.
        data: The source of the images; each recipe's own where empty.
        changes: Changes to the config of every recipe, each `stage.field=value`.
        store: The object store; that of HEMAFLOW_STORE where empty.
    """
    opened = open_store(store or host.settings.store)
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
        records = [host.run(request) for request in contender.requests]
        members.append(member(host, opened, contender.name, records))
        if ensembles:
            averaging = contender.averaging([record.run for record in records])
            averaged = [host.run(request) for request in averaging.requests]
            members.append(member(host, opened, averaging.name, averaged))
    ranked = rank(members)
    host.publish(
        "leaderboard", lambda: pages.leaderboard(ranked, plot(ranked)), "What was compared, best first"
    )
    return ranked


def member(host: Host, store: Store, name: str, records: Sequence[RunRecord]) -> Member:
    """Return the row of one contender, from its runs and the speed of its submission."""
    first = records[0]
    trained, submitted = (result_of(store, first, stage) for stage in ("train", "submit"))
    return Member(
        name=name,
        runs=[record.run for record in records],
        clean=Score.over(records, "test_tta"),
        heavy_mix=Score.over(records, "test_heavy_mix_tta"),
        medmnistc=Score.over(records, "test_medmnistc"),
        num_parameters=trained.facts["num_parameters"],
        train_seconds=train_seconds(KnownRuns.read(store), records),
        images_per_second=host.step(
            f"measure the speed of {name}",
            lambda: measure_speed(store, first, trained.facts["image_size_pixels"]),
            uses_accelerator=True,
        ),
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


def measure_speed(store: Store, record: RunRecord, size_pixels: int) -> float:
    """Return how many images a second the submission names here once it is ready, views included."""
    zip_path = output_path(store, record, "submission")
    evaluated = result_of(store, record, "evaluate")
    if zip_path is None:
        return 0.0
    batch_size = int(evaluated.inputs.config["batch_size"])
    pixels = np.random.default_rng(0).integers(
        0, 256, (2 * batch_size, size_pixels, size_pixels, 3), np.uint8
    )
    with scratch_folder() as folder:
        write_images(folder / "images.npy", size_pixels, [pixels])
        return run_submission(zip_path, folder / "images.npy", chunk_size=batch_size).images_per_second
