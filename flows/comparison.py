"""The flow `backbone-comparison`: recipes, backbones and seeds on the same data, and one leaderboard.

Every member is a run of `blood-cell-training` of its own (`flows/workflows/comparison.py`).
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from hemaflow.flows.config.recipes import RecipeName
from hemaflow.flows.prefect_host import PrefectHost
from hemaflow.flows.runs.leaderboard import Member
from hemaflow.flows.server.supervision import supervised
from hemaflow.flows.workflows.comparison import compare


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
        return compare(
            PrefectHost(),
            recipes=recipes,
            backbones=backbones,
            policies=policies,
            vary=vary,
            seeds=seeds,
            ensembles=ensembles,
            equal_steps=equal_steps,
            data=data,
            changes=changes,
            store=store,
        )
