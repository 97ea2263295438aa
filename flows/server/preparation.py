"""Prepares a Prefect server for hemaflow: work pool, accelerator slot, automations for dead runs.

Creates what is missing and updates what differs, so it can be called at any time.
"""

from __future__ import annotations

from datetime import timedelta
from typing import cast
from uuid import UUID

from prefect.automations import Automation, EventTrigger, Posture
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from pydantic import SecretStr

WORK_POOL = "hemaflow"
"""As in prefect.yaml."""
TAG = "blood-cells"
"""What all deployments of prefect.yaml are tagged with: automations go by it."""
SLOT = "hemaflow-accelerator"
"""The global concurrency limit that HEMAFLOW_ACCELERATOR_SLOT can name."""
SILENT_SECONDS = 150
"""Time without an event after which a run counts as dead: five of the heartbeats that prefect.yaml sets,
which a healthy run sends from a thread of its own, however long its training takes."""
UNWANTED = ("Failed", "Crashed", "TimedOut", "NotPromoted")
"""The states that a webhook is notified of."""

_CRASHES = "hemaflow: runs that went silent are crashed"
_NOTICES = "hemaflow: tell of runs that failed"
_NOTICE = {
    "flow": "flow.name",
    "run": "flow_run.name",
    "url": "flow_run|ui_url",
    "state": "flow_run.state.name",
    "message": "flow_run.state.message",
}
"""What the document of a notice holds → where Prefect finds it."""


def prepare(webhook_url: str = "") -> list[str]:
    """Make what is absent; return what there is now, a line each.

    Args:
        webhook_url: Where a JSON document is posted when a run ends in one of UNWANTED; "" for nowhere.
    """
    with get_client(sync_client=True) as client:
        _work_pool(client)
        _slot(client)
    _automation(_crashes())
    made = [
        f"work pool            {WORK_POOL} (process)",
        f"concurrency limit    {SLOT}: 1",
        f"automation           {_CRASHES} after {SILENT_SECONDS} s",
    ]
    if webhook_url:
        _automation(_notices(webhook_url))
        made.append(f"automation           {_NOTICES}: {', '.join(UNWANTED)}")
    return made


def _work_pool(client: SyncPrefectClient) -> None:
    try:
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
    except ObjectAlreadyExists:
        pass  # whatever its type: whoever made it knows why


def _slot(client: SyncPrefectClient) -> None:
    try:
        client.read_global_concurrency_limit_by_name(SLOT)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=SLOT, limit=1))


def _crashes() -> Automation:
    """Return the automation that marks a run as crashed when it sends no more events.

    Every event of the run counts, so that a run that has ended, in whatever state, never counts as silent.
    """
    return Automation(
        name=_CRASHES,
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                force=False,
                message=f"Nothing was heard of this run for {SILENT_SECONDS} s. "
                "Run it again: it goes on from what is complete.",
            )
        ],
    )


def _notices(url: str) -> Automation:
    block = Webhook(method="POST", url=SecretStr(url))
    document_id = cast(UUID, block.save("hemaflow-notices", overwrite=True))
    return Automation(
        name=_NOTICES,
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
            expect={f"prefect.flow-run.{state}" for state in UNWANTED},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            CallWebhook(
                block_document_id=document_id,
                payload="{"
                + ", ".join(f'"{name}": {{{{ {value}|tojson }}}}' for name, value in _NOTICE.items())
                + "}",
            )
        ],
    )


def _automation(wanted: Automation) -> None:
    try:
        former = cast(Automation, Automation.read(name=wanted.name))
    except ValueError:  # how it says that there is none
        wanted.create()
        return
    wanted.id = former.id
    wanted.update()
