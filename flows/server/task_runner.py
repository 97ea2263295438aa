"""Selects the task runner, which decides where shards are written; no other module knows which one it is."""

from __future__ import annotations

from typing import Any, TypeAlias

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.settings import Settings

AnyTaskRunner: TypeAlias = TaskRunner[Any]
"""A task runner, whatever its futures are."""


def task_runner(settings: Settings) -> AnyTaskRunner:
    """Return the task runner of HEMAFLOW_TASK_RUNNER.

    Raises:
        ConfigError: The package that it comes with is not installed.
    """
    if settings.task_runner == "threads":
        # One thread per worker process: a thread does nothing but wait for its worker.
        return ThreadPoolTaskRunner(max_workers=settings.workers)
    address = settings.cluster or None
    try:
        if settings.task_runner == "dask":
            from prefect_dask import DaskTaskRunner

            # Without an address: a cluster on this machine, for as long as the run.
            local = {"n_workers": settings.workers, "threads_per_worker": 1}
            runner: AnyTaskRunner = DaskTaskRunner(address=address, cluster_kwargs=None if address else local)
            return runner
        from prefect_ray import RayTaskRunner

        init = {} if address else {"num_cpus": settings.workers}
        runner = RayTaskRunner(address=address, init_kwargs=init)
        return runner
    except ImportError:
        name = settings.task_runner
        raise ConfigError(
            f"The task runner {name} is not installed.",
            received=f"HEMAFLOW_TASK_RUNNER={name}",
            remedy=f"Install it: pip install prefect-{name}; or use threads.",
        ) from None
