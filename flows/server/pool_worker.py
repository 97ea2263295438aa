"""A Prefect worker that stops in order: `hemaflow worker`.

Prefect's own worker, asked to stop, waits for its runs but does not signal them, until the supervisor kills
all of them. This worker sends SIGTERM to each run, which keeps a checkpoint and ends, and starts no other run
meanwhile.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import anyio
import psutil
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessWorker

from hemaflow.infra.errors import ConfigError

END_SECONDS = 60.0
"""Timeout for the runs to keep a checkpoint and end."""
REPORT_SECONDS = 1.0
"""Timeout for Prefect's worker to report that they ended."""


def serve(pool: str, *, name: str = "", limit: int = 0, template: Path | None = None) -> None:
    """Take up the runs of a work pool until SIGTERM or SIGINT.

    Args:
        pool: The work pool; made where it is absent.
        name: What the worker is called; drawn where empty.
        limit: How many runs at once; 0 for any number.
        template: A base job template that the pool is made with; Prefect's own where None.

    Raises:
        ConfigError: The template cannot be read.
    """
    worker = ProcessWorker(
        work_pool_name=pool,
        name=name or None,
        limit=limit or None,
        base_job_template=_read(template) if template else None,
    )
    anyio.run(_serve, worker)


async def _serve(worker: ProcessWorker) -> None:
    ending, take_up = False, worker.get_and_submit_flow_runs

    async def take_up_unless_ending() -> list[FlowRun]:
        return [] if ending else await take_up()

    # On this object alone: a subclass would replace Prefect's own worker type.
    worker.get_and_submit_flow_runs = take_up_unless_ending  # type: ignore[method-assign]
    async with anyio.create_task_group() as group:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            group.start_soon(worker.start)
            async for _ in signals:
                ending = True
                runs = psutil.Process().children()
                for run in runs:
                    run.terminate()
                # The worker keeps running meanwhile: it reports how the runs ended.
                with anyio.move_on_after(END_SECONDS):
                    while any(run.is_running() for run in runs):
                        await anyio.sleep(0.1)
                await anyio.sleep(REPORT_SECONDS)
                group.cancel_scope.cancel()


def _read(template: Path) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(template.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "The base job template cannot be read.",
            expected="a JSON file",
            received=str(error),
            where=str(template),
            remedy="Give --template such a file, or leave it out for Prefect's own.",
        ) from None
    return found
