"""Carries out a request in this process: directly, or as Prefect's flow where there is a server."""

from __future__ import annotations

from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.engine.engine import Engine
from hemaflow.flows.engine.execute import DirectRunner, execute
from hemaflow.flows.engine.observer import Observer, WatchedRun
from hemaflow.flows.engine.run import Run
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.server.address import has_server
from hemaflow.flows.server.embedded import prefect_watched_by
from hemaflow.infra.settings import Settings


def carry_out(request: RunRequest, engine: Engine, observer: Observer, settings: Settings) -> RunRecord:
    """Carry out a request and return the record of the run.

    Prefect cannot run a flow without a server. So the flow is called where a server is set up, and where a
    setting needs one (an accelerator slot, a Dask or Ray cluster); else the same stages run without Prefect.

    Args:
        request: What is asked for.
        engine: The engine for that request (`open_engine`).
        observer: Notified of the progress.
        settings: Where things are on this machine.
    """
    if not (has_server() or settings.accelerator_slot or settings.task_runner != "threads"):
        with Run(request, observer, settings, engine) as run:
            return execute(run, DirectRunner())
    with prefect_watched_by(WatchedRun(observer, request, engine)):
        from hemaflow.flows.training import blood_cell_training

        record: RunRecord = blood_cell_training(**request.model_dump())
    return record
