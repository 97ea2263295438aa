"""Retraining with a gate: train on what is new, judge the model beside the champion, promote it or not.

It looks by content whether the source holds what it has come to a verdict on; trains; compares the challenger
with the champion on one fixed reference set; and promotes by the stated rule (`tasks/review/judge.py`). A
model that is not promoted stays, with its verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hemaflow.flows.config.recipes import recipe_named
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.prefect_ui import pages
from hemaflow.flows.runs.champion import Champion, current, promote
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.record import RunRecord, runs
from hemaflow.flows.workflows.host import Host
from hemaflow.flows.workflows.judging import Judgement, judge
from hemaflow.infra.errors import PromotionLost
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import open_store
from hemaflow.tasks.review.judge import JudgeConfig
from hemaflow.tasks.review.results import Drift, Verdict, VerdictFacts
from hemaflow.tasks.sources.registry import open_source

REFERENCE = "ingest.reference="
"""How the change begins that names the reference set: the workflow makes it itself."""


class Outcome(NamedTuple):
    """What came of a retraining."""

    name: str
    """`NothingNew`, `Promoted`, `NotPromoted`, or `Overtaken` where another promotion came first."""
    message: str
    """The same in words, with the run and the reason."""


def retrain(
    host: Host,
    *,
    data: str = "",
    recipe: str = "laptop",
    changes: Sequence[str] = (),
    reference: str = "",
    delta: float = 0.005,
    epsilon: float = 0.03,
    store: str = "",
) -> Outcome:
    """Train on what is new, judge the model beside the champion, and promote it only if it is no worse.

    Args:
        host: Carries it out.
        data: The source that new labelled images arrive in; the recipe's own where empty.
        recipe: The recipe whose config is used.
        changes: Changes to the recipe's config, each `stage.field=value`.
        reference: A source of labelled images that champion and challenger are judged on; where empty, the
            test split that the first champion was evaluated on.
        delta: Accuracy that may be lost (0..1).
        epsilon: Recall that one class may lose (0..1).
        store: The object store; that of HEMAFLOW_STORE where empty.
    """
    opened = open_store(store or host.settings.store)
    source = data or recipe_named(recipe).data
    champion = current(opened)
    rule = JudgeConfig(delta=delta, epsilon=epsilon)
    known = host.step(
        f"look for new images in {source}",
        lambda: settled_run(opened, source, recipe, changes, reference, champion, rule, host.settings),
    )
    if known:
        return Outcome("NothingNew", f"{source} holds what run {known} was trained on.")
    fixed = reference or (f"ingest:{champion.reference}" if champion else "")
    challenger = host.run(
        RunRequest.model_validate(
            {
                "recipe": recipe,
                "data": source,
                "changes": (*changes, *([REFERENCE + fixed] if fixed else [])),
                "store": store,
            }
        )
    )
    if champion is None:
        return _promoted(opened, challenger, "the first model: there was no champion", "")
    judgement = host.step(
        f"judge {challenger.run} beside {champion.run}",
        lambda: judge(opened, challenger, find_run(opened, champion.run), host.settings, rule),
        uses_accelerator=True,
    )
    _publish(host, opened, challenger.run, champion.run, judgement)
    facts = VerdictFacts.of(judgement.verdict)
    if not facts.promote:
        return Outcome("NotPromoted", f"Run {challenger.run} is kept, not promoted: {facts.reason}")
    return _promoted(opened, challenger, facts.reason, champion.tag)


def settled_run(
    store: Store,
    source: str,
    recipe: str,
    changes: Sequence[str],
    reference: str,
    champion: Champion | None,
    rule: JudgeConfig,
    settings: Settings,
) -> str:
    """Return the run of these images, recipe and changes of which no more can come; "" for none.

    A run that was never judged, or was judged beside another champion or by another rule, is no such run:
    what it made is reused, and it is judged now.
    """
    with open_source(source, settings) as opened:
        content = opened.content_digest()
    for record in reversed(runs(store)):
        own = [change for change in record.changes if not change.startswith(REFERENCE)]
        alike = (record.source_sha256, record.recipe, own) == (content, recipe, list(changes))
        on_the_same = not reference or REFERENCE + reference in record.changes
        if alike and on_the_same and _is_settled(record, champion, rule):
            return record.run
    return ""


def _is_settled(record: RunRecord, champion: Champion | None, rule: JudgeConfig) -> bool:
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
        and verdict["rule"] == rule.rule().document()
    )


def _promoted(store: Store, challenger: RunRecord, reason: str, replaces: str) -> Outcome:
    """Promote a run; say so, or that another promotion came first."""
    try:
        promote(store, challenger, reason, replaces)
    except PromotionLost as error:
        return Outcome("Overtaken", f"Run {challenger.run} is not promoted: {error.what}")
    return Outcome("Promoted", f"Run {challenger.run} is the champion: {reason}")


def _publish(host: Host, store: Store, challenger: str, champion: str, judgement: Judgement) -> None:
    verdict = Verdict.model_validate_json(judgement.verdict.read(store, "verdict.json"))
    drift = Drift.model_validate_json(judgement.drift.read(store, "drift.json"))
    host.publish("verdict", lambda: pages.verdict(challenger, champion, verdict), "Champion or challenger")
    host.publish("drift", lambda: pages.drift(drift), "New images and the champion's training images")
