"""The flow `retraining`: train on what is new, judge the model beside the champion, and promote it or not.

It ends in a state that says what came of it: `NothingNew`, `Promoted`, `NotPromoted`, or `Overtaken` where
another promotion came first (`flows/workflows/retraining.py`).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from hemaflow.flows.config.recipes import RecipeName
from hemaflow.flows.prefect_host import PrefectHost
from hemaflow.flows.server.supervision import supervised
from hemaflow.flows.workflows.retraining import Outcome, retrain


def run_name() -> str:
    """Return what a flow run is called: `retraining laptop on incoming`."""
    given = flow_run.parameters
    data = PurePosixPath(given.get("data") or "").name
    return " on ".join(filter(None, (f"retraining {given.get('recipe', 'laptop')}", data)))


@flow(name="retraining", flow_run_name=run_name, persist_result=False)
def retraining(
    data: str = "",
    recipe: RecipeName = "laptop",
    changes: tuple[str, ...] = (),
    reference: str = "",
    delta: Annotated[float, Field(ge=0.0, le=1.0)] = 0.005,
    epsilon: Annotated[float, Field(ge=0.0, le=1.0)] = 0.03,
    store: str = "",
) -> State[None]:
    """Train on what is new, judge the model beside the champion, and promote it only if it is no worse.

    Args:
        data: The source that new labelled images arrive in: a folder, s3://bucket/prefix, a .zip or .npz; the
            recipe's own where empty.
        recipe: The recipe whose config is used.
        changes: Changes to the recipe's config, each `stage.field=value`, such as train.batch_size=32.
        reference: A source of labelled images that champion and challenger are judged on, and that nothing is
            learnt from; where empty, the test split that the first champion was evaluated on.
        delta: Accuracy that may be lost: the lower bound of the difference's 95 % interval must be above its
            negative.
        epsilon: Recall that one class may lose.
        store: The object store: a folder or s3://bucket/prefix; that of HEMAFLOW_STORE where empty.
    """
    with supervised():
        found = retrain(
            PrefectHost(),
            data=data,
            recipe=recipe,
            changes=changes,
            reference=reference,
            delta=delta,
            epsilon=epsilon,
            store=store,
        )
        return Completed(name=found.name, message=found.message)


def outcome(**asked: object) -> Outcome:
    """Call the flow and return what came of it; raises what the flow raised.

    Args:
        asked: Parameters of the flow.
    """
    state = retraining(**asked, return_state=True)
    if not state.is_completed():
        state.result()
    return Outcome(str(state.name), str(state.message))
