"""The flow `retraining`: train on what is new, judge the model beside the champion, promote it or not.

It looks by content whether the source holds what it has come to a verdict on; trains; compares the challenger
with the champion on one fixed reference set; and promotes by the stated rule (`tasks/review/judge.py`). A
model that is not promoted stays, with its verdict. The flow ends in a state that says what came of it:
`NothingNew`, `Promoted`, `NotPromoted`, or `Overtaken` where another promotion came first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from hemaflow.flows.config.recipes import RecipeName, recipe_named
from hemaflow.flows.engine.judging import Judgement, judge
from hemaflow.flows.prefect_ui import pages
from hemaflow.flows.prefect_ui.artifacts import publish
from hemaflow.flows.runs.champion import Champion, current, promote
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.record import RunRecord, runs
from hemaflow.flows.server.accelerator_slot import accelerator
from hemaflow.flows.server.supervision import supervised
from hemaflow.flows.training import SETTINGS, blood_cell_training
from hemaflow.infra.errors import PromotionLost
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import open_store
from hemaflow.tasks.review.judge import JudgeConfig
from hemaflow.tasks.sources.registry import open_source

REFERENCE = "ingest.reference="
"""How the change begins that names the reference set: the flow makes it itself."""


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
        logger = get_run_logger()
        opened = open_store(store or SETTINGS.store)
        source = data or recipe_named(recipe).data
        champion = current(opened)
        rule = JudgeConfig(delta=delta, epsilon=epsilon)
        known = look_for_new_images(opened, source, recipe, changes, reference, champion, rule)
        if known:
            logger.info("nothing new since run %s", known)
            return Completed(name="NothingNew", message=f"{source} holds what run {known} was trained on.")
        fixed = reference or (f"ingest:{champion.reference}" if champion else "")
        challenger = blood_cell_training(
            recipe=recipe,
            data=source,
            changes=(*changes, *([REFERENCE + fixed] if fixed else [])),
            store=store,
        )
        if champion is None:
            return settle(opened, challenger, "the first model: there was no champion", None)
        judgement = judge_challenger(opened, challenger, champion, rule)
        facts = judgement.verdict.facts
        if not facts["promote"]:
            return Completed(
                name="NotPromoted", message=f"Run {challenger.run} is kept, not promoted: {facts['reason']}"
            )
        return settle(opened, challenger, facts["reason"], champion)


@task(task_run_name="look for new images in {source}", cache_policy=NO_CACHE, persist_result=False)
def look_for_new_images(
    store: Store,
    source: str,
    recipe: str,
    changes: Sequence[str],
    reference: str,
    champion: Champion | None,
    rule: JudgeConfig,
) -> str:
    """Return the run of these images, recipe and changes of which no more can come; "" for none.

    A run that was never judged, or was judged beside another champion or by another rule, is no such run:
    what it made is reused, and it is judged now.
    """
    with open_source(source, SETTINGS) as opened:
        content = opened.content_digest()
    for record in reversed(runs(store)):
        own = [change for change in record.changes if not change.startswith(REFERENCE)]
        alike = (record.source_sha256, record.recipe, own) == (content, recipe, list(changes))
        on_the_same = not reference or REFERENCE + reference in record.changes
        if alike and on_the_same and settled(record, champion, rule):
            return record.run
    return ""


def settled(record: RunRecord, champion: Champion | None, rule: JudgeConfig) -> bool:
    """Return whether a run was promoted, or was refused beside this champion by this rule."""
    if champion is None:
        return False
    if record.run in (champion.run, *(former.run for former in champion.history)):
        return True
    verdict = record.verdict
    return (
        bool(verdict)
        and not verdict["promote"]
        and verdict["champion"] == champion.run
        and verdict["rule"] == rule.rule()
    )


@task(
    task_run_name="judge {challenger.run} beside {champion.run}", cache_policy=NO_CACHE, persist_result=False
)
def judge_challenger(
    store: Store, challenger: RunRecord, champion: Champion, config: JudgeConfig
) -> Judgement:
    """Compare both on the reference set, and what they learnt from; publish the verdict."""
    with accelerator("evaluate", SETTINGS):
        judgement = judge(store, challenger, find_run(store, champion.run), SETTINGS, config)
    verdict = json.loads(judgement.verdict.read(store, "verdict.json"))
    drift = json.loads(judgement.drift.read(store, "drift.json"))
    publish("verdict", lambda: pages.verdict(challenger.run, champion.run, verdict), "Champion or challenger")
    publish("drift", lambda: pages.drift(drift), "New images beside those the champion learnt from")
    return judgement


def settle(store: Store, challenger: RunRecord, reason: str, champion: Champion | None) -> State[None]:
    """Promote a run, and return the state that says so, or that another promotion came first."""
    try:
        promote(store, challenger, reason, champion.tag if champion else "")
    except PromotionLost as error:
        return Completed(name="Overtaken", message=f"Run {challenger.run} is not promoted: {error.what}")
    return Completed(name="Promoted", message=f"Run {challenger.run} is the champion: {reason}")
