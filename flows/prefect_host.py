"""Carries out a workflow under Prefect: runs are flows, steps are tasks, pages are artifacts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.prefect_ui.artifacts import publish
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.server.accelerator_slot import accelerator
from hemaflow.flows.training import SETTINGS, blood_cell_training
from hemaflow.infra.settings import Settings

Result = TypeVar("Result")


class PrefectHost:
    """See Host: to be used inside a flow."""

    @property
    def settings(self) -> Settings:
        """See Host."""
        return SETTINGS

    def run(self, request: RunRequest) -> RunRecord:
        """See Host: a flow of its own, below this one."""
        record: RunRecord = blood_cell_training(**request.model_dump())
        return record

    def step(self, title: str, work: Callable[[], Result], *, uses_accelerator: bool = False) -> Result:
        """See Host: a task."""
        result: Result = step_task(title, work, uses_accelerator)
        return result

    def publish(self, key: str, page: Callable[[], str], description: str) -> None:
        """See Host: an artifact."""
        publish(key, page, description)


@task(task_run_name="{title}", cache_policy=NO_CACHE, persist_result=False)
def step_task(title: str, work: Callable[[], Result], uses_accelerator: bool) -> Result:
    """Do one step of a workflow."""
    with accelerator("predict", SETTINGS) if uses_accelerator else nullcontext():
        return work()
