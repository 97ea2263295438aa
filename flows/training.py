"""The flow `blood-cell-training`: ingest → augment → train → predict → evaluate → submit under Prefect.

Every stage is a task. One that is reused ends in the state `Cached`, its reason in the message; one that runs
does its work in a worker process. The parts of a stage (the shards of augment, the chunks of ingest) are
mapped tasks of their own. The engine decides what runs; Prefect's own task cache is off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from prefect import flow, get_run_logger, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import as_completed
from prefect.runtime import flow_run
from prefect.states import Completed

from hemaflow.flows.config.recipes import RecipeName
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.config.stages import FromStage, PipelineConfig, StageName
from hemaflow.flows.engine.engine import Decision, Engine
from hemaflow.flows.engine.execute import complete_stage, execute, part_of, write_part
from hemaflow.flows.engine.observer import LogObserver, Observers, watched_run
from hemaflow.flows.engine.retries import RETRY_SECONDS
from hemaflow.flows.engine.run import Run
from hemaflow.flows.engine.worker_process import Job, Log, WorkerPool
from hemaflow.flows.prefect_ui import pages
from hemaflow.flows.prefect_ui.artifacts import ArtifactObserver
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.server.accelerator_slot import accelerator
from hemaflow.flows.server.supervision import supervised
from hemaflow.flows.server.task_runner import task_runner
from hemaflow.infra.errors import StoreUnavailable
from hemaflow.infra.results.draft import silent
from hemaflow.infra.results.manifest import StoredObject
from hemaflow.infra.settings import current_settings

SETTINGS = current_settings()
MAX_TASK_RUNS = 400
"""Most task runs that the parts of a stage are divided among: Prefect's server keeps rows of each."""


def run_name() -> str:
    """Return what a flow run is called: `laptop on cells.zip`."""
    given = flow_run.parameters
    recipe = "custom" if given.get("config") else given.get("recipe", "demo")
    return " on ".join(filter(None, (recipe, PurePosixPath(given.get("data") or "").name)))


@flow(
    name="blood-cell-training",
    flow_run_name=run_name,
    task_runner=task_runner(SETTINGS),
    persist_result=False,
)
def blood_cell_training(
    recipe: RecipeName = "demo",
    data: str = "",
    changes: tuple[str, ...] = (),
    from_stage: FromStage = "",
    until_stage: StageName = "submit",
    config: PipelineConfig | None = None,
    of_run: str = "",
    store: str = "",
) -> RunRecord:
    """Turn a source of labelled cell images into a verified submission.

    Args:
        recipe: The recipe whose config is used.
        data: The source of the images: a folder or .zip with a folder per class, an .npz, s3://bucket/prefix,
            bloodmnist[-64|-128|-224] or sample; the recipe's own where empty.
        changes: Changes to the recipe's config, each `stage.field=value`, such as train.batch_size=32.
        from_stage: Compute this stage and all after it again.
        until_stage: Stop after this stage.
        config: The whole config, field by field, instead of the recipe's.
        of_run: A run whose results are used as they are, whatever changed since: those before from_stage, or
            all that it has.
        store: The object store: a folder or s3://bucket/prefix; that of HEMAFLOW_STORE where empty.
    """
    request = RunRequest(
        recipe=recipe,
        data=data,
        changes=changes,
        from_stage=from_stage,
        until_stage=until_stage,
        config=config,
        of_run=of_run,
        store=store,
    )
    with supervised():
        return run_pipeline(request)


def run_pipeline(request: RunRequest) -> RunRecord:
    """Carry out a request inside a flow of Prefect's."""
    watched = watched_run.get()
    engine: Engine | None = watched.engine if watched and watched.request == request else None
    with Run(request, LogObserver(get_run_logger()), SETTINGS, engine) as run:
        artifacts = ArtifactObserver(run)
        run.observer = Observers(run.observer, artifacts, *([watched.observer] if watched else []))
        record = execute(run, PrefectRunner())
        artifacts.finished()
    return record


class PrefectRunner:
    """Calls the work of a run as tasks of Prefect."""

    def stage(self, run: Run, decision: Decision, parts: Sequence[StoredObject]) -> None:
        """See Runner."""
        title = pages.title(decision.stage, run.engine.stage_config(decision.stage).model_dump())
        stage_task(title, run, decision, parts)

    def parts(self, run: Run, jobs: Sequence[Job], written: Callable[[int], None]) -> list[StoredObject]:
        """See Runner. Each task run writes several parts where there are more than MAX_TASK_RUNS."""
        pool = run.shard_workers if run.settings.task_runner == "threads" else None
        size = -(-len(jobs) // MAX_TASK_RUNS)
        batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        try:
            futures = parts_task.map(
                [f"{jobs[0].inputs.stage} part {n}/{len(batches)}" for n in range(1, len(batches) + 1)],
                batches,
                unmapped(pool),
                unmapped(run.settings.stage_timeout_seconds),
            )
            done = 0
            for future in as_completed(futures):
                done += len(future.result())
                written(done)
            return [part for future in futures for part in future.result() if part]
        except BaseException:
            if pool:
                pool.stop()
            raise


def store_was_away(_: object, __: object, state: State[object]) -> bool:
    """Return whether a task failed because the store was away: nothing else is worth a retry."""
    return isinstance(state.result(raise_on_failure=False), StoreUnavailable)


OPTIONS: dict[str, Any] = {
    "task_run_name": "{title}",
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": len(RETRY_SECONDS),
    "retry_delay_seconds": list(RETRY_SECONDS),
    "retry_condition_fn": store_was_away,
}
"""Options of every task: the engine decides what is reused, and only an absent store is worth a retry."""


@task(**OPTIONS)
def stage_task(title: str, run: Run, decision: Decision, parts: Sequence[StoredObject]) -> State[None]:
    """Make one stage complete: reuse its result, or do its work in the run's worker process."""
    if decision.state == "reuse":
        complete_stage(run, decision, parts)
        return Completed(name="Cached", message=decision.reason)
    with accelerator(decision.stage, run.settings):
        complete_stage(run, decision, parts, _log())
        if run.settings.accelerator_slot:
            run.worker.release()  # the slot's next holder needs the accelerator's memory
    return Completed(message=decision.reason)


@task(**OPTIONS)
def parts_task(
    title: str, jobs: Sequence[Job], pool: WorkerPool | None, timeout_seconds: float
) -> list[StoredObject | None]:
    """Write parts of a stage one after another, or find them complete.

    In a worker of the pool, or in this process without a pool: the processes of Dask and Ray do nothing but
    such work; the flow's own never does any.
    """
    if pool is not None:
        return [write_part(job, pool, timeout_seconds, _log()) for job in jobs]
    return [part_of(job.run(silent)) for job in jobs]


def _log() -> Log:
    """Return what puts a worker's log records into the log of the task run."""
    return get_run_logger().log
