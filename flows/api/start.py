"""Carries out what is asked for in this process: directly, or as Prefect's flow where there is a server.

Prefect cannot run a flow without a server. So a flow is called where a server is set up, and where a setting
needs one (an accelerator slot, a Dask or Ray cluster); else the same work is done without Prefect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.engine.engine import Engine
from hemaflow.flows.engine.execute import DirectRunner, execute
from hemaflow.flows.engine.observer import Observer, WatchedRun
from hemaflow.flows.engine.run import Run
from hemaflow.flows.runs.leaderboard import Member
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.server.address import has_server
from hemaflow.flows.server.embedded import prefect_watched_by
from hemaflow.flows.workflows.host import DirectHost, Host
from hemaflow.infra.settings import Settings, current_settings

if TYPE_CHECKING:  # they load numpy
    from hemaflow.flows.workflows.label_errors import LabelErrors
    from hemaflow.flows.workflows.retraining import Outcome

Given = ParamSpec("Given")
Result = TypeVar("Result")


def carry_out(request: RunRequest, engine: Engine, observer: Observer, settings: Settings) -> RunRecord:
    """Carry out a request and return the record of the run.

    Args:
        request: What is asked for.
        engine: The engine for that request (`open_engine`).
        observer: Notified of the progress.
        settings: Where things are on this machine.
    """
    if not _needs_prefect(settings):
        with Run(request, observer, settings, engine) as run:
            return execute(run, DirectRunner())
    with prefect_watched_by(WatchedRun(observer, request, engine)):
        from hemaflow.flows.training import blood_cell_training

        record: RunRecord = blood_cell_training(**request.model_dump())
    return record


def carry_out_workflow(
    workflow: Callable[Concatenate[Host, Given], Result],
    flow: Callable[[], Callable[..., Result]],
    observer: Observer,
    *positional: Given.args,
    **asked: Given.kwargs,
) -> Result:
    """Carry out a workflow and return what it returns.

    Args:
        workflow: The workflow.
        flow: Imports Prefect and returns the workflow's flow, which takes the same arguments.
        observer: Notified of the progress of every run.
        positional: Arguments of the workflow.
        asked: Arguments of the workflow by name.
    """
    settings = current_settings()
    if not _needs_prefect(settings):
        return workflow(DirectHost(observer, settings), *positional, **asked)
    with prefect_watched_by(WatchedRun(observer)):
        return flow()(*positional, **asked)


def comparison_flow() -> Callable[..., list[Member]]:
    """Return the flow `backbone-comparison`."""
    from hemaflow.flows.comparison import comparison

    return comparison


def label_errors_flow() -> Callable[..., LabelErrors]:
    """Return the flow `label-errors`."""
    from hemaflow.flows.label_errors import label_errors

    return label_errors


def retraining_flow() -> Callable[..., Outcome]:
    """Return the flow `retraining`, whose state is what came of it."""
    from hemaflow.flows.retraining import outcome

    return outcome


def _needs_prefect(settings: Settings) -> bool:
    return has_server() or bool(settings.accelerator_slot) or settings.task_runner != "threads"
