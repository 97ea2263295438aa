"""Limits an accelerator to one job at a time, with a concurrency slot of Prefect's.

The slot is a global concurrency limit. Its holder renews a lease. If the holder dies, the lease expires and
Prefect's server frees the slot. A restarted server may forget the lease but not that the slot is taken: so
the next run frees the slot if no other run is active that could hold it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from hemaflow.flows.config.stages import StageName
from hemaflow.infra.errors import ConfigError
from hemaflow.infra.settings import Settings

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""Time after which the slot of a dead holder is freed; the least that Prefect accepts."""
FLOWS = ("blood-cell-training", "backbone-comparison", "label-errors", "retraining")
"""The flows whose runs may hold the slot."""
ACCELERATED: tuple[StageName, ...] = ("train", "predict", "submit")


@contextmanager
def accelerator(stage: StageName, settings: Settings) -> Iterator[None]:
    """Hold the slot for a stage that uses accelerators, if a slot is configured."""
    if not settings.accelerator_slot or stage not in ACCELERATED:
        yield
        return
    release_leaked(settings.accelerator_slot)
    with concurrency(
        settings.accelerator_slot,
        lease_duration=LEASE_SECONDS,
        strict=True,
        # A server that is down for a moment is no reason to end hours of training.
        raise_on_lease_renewal_failure=False,
    ):
        yield


def release_leaked(name: str) -> bool:
    """Free a slot that is taken while no other run is active; return whether it was.

    Raises:
        ConfigError: The server has no slot of that name.
    """
    own = {flow_run.root_flow_run_id, flow_run.id, flow_run.parent_flow_run_id}
    with get_client(sync_client=True) as client:
        try:
            slot = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound as error:
            raise ConfigError(
                "Prefect's server has no such slot for accelerators.",
                received=f"HEMAFLOW_ACCELERATOR_SLOT={name}",
                remedy="Make it with `hemaflow prepare`, correct the name, or unset the variable.",
            ) from error
        if not slot.active_slots:
            return False
        running = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(
                    type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
                )
            ),
        )
        if any(str(run.id) not in own for run in running):
            return False
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))
        log.warning("the slot %s was held by no run any more: given free", name)
        return True
