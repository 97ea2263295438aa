"""The flow `backbone-comparison`: the same data and augmentation, several backbones and seeds, one table.

Every member is a run of `blood-cell-training` of its own: what they share is computed once.
"""

from __future__ import annotations

from statistics import mean, stdev
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field

from flows import pages
from flows.artifacts import publish
from flows.recipes import RecipeName
from flows.record import RunRecord
from flows.supervision import supervised
from flows.training import SETTINGS, blood_cell_training
from infra.manifest import load_manifest
from infra.stores import open_store


class Member(BaseModel):
    """One row of the leaderboard: a backbone, over all seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    runs: list[str]
    accuracies: list[float] = Field(description="Test accuracy of each seed, averaged over the views.")
    num_parameters: int
    train_seconds: float = Field(description="Of the slowest seed that was trained; 0 where none was.")

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return mean(self.accuracies)

    @property
    def deviation(self) -> float:
        """The standard deviation over the seeds; 0 for one seed."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def run_name() -> str:
    """Return what a flow run is called: `cnn, mobilenetv2-0.35 with laptop`."""
    given = flow_run.parameters
    return f"{', '.join(given.get('backbones') or ['?'])} with {given.get('recipe', 'demo')}"


@flow(name="backbone-comparison", flow_run_name=run_name, persist_result=False)
def backbone_comparison(
    backbones: Annotated[tuple[str, ...], Field(min_length=1)] = ("cnn",),
    seeds: Annotated[int, Field(ge=1, le=20)] = 1,
    recipe: RecipeName = "demo",
    data: str = "",
    changes: tuple[str, ...] = (),
    store: str = "",
) -> list[Member]:
    """Train several backbones on the same shards, and rank them by their test accuracy.

    Args:
        backbones: What to compare: rows of the table in tasks/backbones.py.
        seeds: How many seeds each is trained with, from 0 on.
        recipe: The recipe whose config is used for all else.
        data: The source of the images; the recipe's own where empty.
        changes: Changes to the recipe's config, each `stage.field=value`.
        store: The object store: a folder or s3://bucket/prefix; that of HEMAFLOW_STORE where empty.
    """
    with supervised():
        members = []
        for backbone in backbones:
            records = [
                blood_cell_training(
                    recipe=recipe,
                    data=data,
                    changes=(*changes, f"train.backbone={backbone}", f"train.seed={seed}"),
                    until_stage="evaluate",
                    store=store,
                )
                for seed in range(seeds)
            ]
            members.append(_member(backbone, records, store))
        members.sort(key=lambda member: -member.accuracy)
        publish("leaderboard", lambda: pages.leaderboard(members), "Backbones by test accuracy")
        return members


def _member(backbone: str, records: list[RunRecord], store_url: str) -> Member:
    store = open_store(store_url or SETTINGS.store)
    key = records[0].key("train") or ""
    trained = load_manifest(store, "train", key)
    return Member(
        backbone=backbone,
        runs=[record.run for record in records],
        accuracies=[record.metrics["test_tta"]["accuracy"] for record in records],
        num_parameters=trained[0].facts["num_parameters"] if trained else 0,
        train_seconds=max(
            stage.seconds if stage.stage == "train" and stage.state == "ran" else 0.0
            for record in records
            for stage in record.stages
        ),
    )
