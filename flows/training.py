"""The flow `blood-cell-training`: ingest → augment → train → evaluate → submit under Prefect.

Every stage is a task. One that is reused ends in the state `Cached`, its reason in the message; one that runs
does its work in a spawned process. The shards of augment are mapped tasks of their own. The engine decides
what runs; Prefect's own task cache is off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from prefect import flow, get_run_logger, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import as_completed
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.child import Job, Worker, WorkerPool
from flows.engine import Decision
from flows.observer import LogObserver, Observer
from flows.record import RunRecord
from flows.run import Run, RunRequest
from flows.stages import STAGES, StageName
from infra.draft import Progress
from infra.errors import StageError
from infra.manifest import Manifest, StoredObject
from infra.settings import current_settings
from tasks.shards import Shard
from tasks.stage import Parents

SETTINGS = current_settings()

observing: ContextVar[Observer | None] = ContextVar("observing", default=None)
"""Who watches a flow that is called in this process; where nobody does, the run's log is told."""


@flow(
    name="blood-cell-training",
    flow_run_name="{recipe}",
    # One thread per worker process: a thread does nothing but wait for its worker.
    task_runner=ThreadPoolTaskRunner(max_workers=SETTINGS.workers),  # type: ignore[arg-type]
    persist_result=False,
)
def blood_cell_training(
    recipe: str = "demo",
    data: str = "",
    changes: tuple[str, ...] = (),
    from_stage: str = "",
    until_stage: StageName = "submit",
    of_run: str = "",
    store: str = "",
) -> RunRecord:
    """Turn a source of labelled cell images into a verified submission.

    Args:
        recipe: The recipe whose config is used.
        data: The source of the images; the recipe's own where empty.
        changes: Changes to the recipe's config, each `stage.field=value`.
        from_stage: Compute this stage and all after it again.
        until_stage: Stop after this stage.
        of_run: Use the results of this run as they are: those before from_stage, or all it has.
        store: The object store; that of HEMAFLOW_STORE where empty.
    """
    request = RunRequest(
        recipe=recipe,
        data=data,
        changes=changes,
        from_stage=from_stage,
        until_stage=until_stage,
        of_run=of_run,
        store=store,
    )
    run = Run(request, observing.get() or LogObserver(get_run_logger()), SETTINGS)
    with run.recorded() as record:
        for stage in run.engine.stages:
            with run.decided(stage) as decision:
                if decision.forget:
                    decision.draft(run.store).forget()
                writes_shards = decision.state == "run" and STAGES[stage].fans_out
                parts = write_shards(run, decision) if writes_shards else ()
                stage_task(stage, run, decision, parts)
    return record


@task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def stage_task(stage: StageName, run: Run, decision: Decision, parts: Sequence[StoredObject]) -> State[Any]:
    """Make one stage complete: reuse its result, or do its work in a process of its own."""
    if decision.state == "reuse":
        run.finish(decision)
        return Completed(name="Cached", message=decision.reason)
    job = job_of(run, decision, "finish", parts) if STAGES[stage].fans_out else job_of(run, decision, "run")
    worker = Worker()
    try:
        manifest = worker.do(job, run.settings.stage_timeout_seconds, _progress(run, stage))
    finally:
        worker.stop()
    if not isinstance(manifest, Manifest):
        raise StageError(f"{stage} did not end with a commit.", received=type(manifest).__name__)
    run.finish(decision, manifest)
    return Completed(message=decision.reason)


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def shard_task(name: str, job: Job, pool: WorkerPool, timeout_seconds: float) -> StoredObject:
    """Write one shard in a worker of the pool, or find it complete."""
    with pool.lend() as worker:
        part = worker.do(job, timeout_seconds)
    if not isinstance(part, StoredObject):
        raise StageError(f"{name} did not end with a commit.", received=type(part).__name__)
    return part


def write_shards(run: Run, decision: Decision) -> list[StoredObject]:
    """Write the shards of a stage side by side; return them in the order of the plan."""
    stage = STAGES[decision.stage]
    draft = decision.draft(run.store)
    for stored in decision.intact:
        draft.commit_part(stored)
    parents = Parents(run.store, run.parents(decision.stage))
    shards: Sequence[Shard] = stage.module.plan(parents, run.engine.stage_config(decision.stage))
    progress = _progress(run, decision.stage)
    progress(0, len(shards), "shards")
    pool = WorkerPool(min(run.settings.workers, len(shards)))
    try:
        futures = shard_task.map(
            [shard.name for shard in shards],
            [job_of(run, decision, "write", shard) for shard in shards],
            unmapped(pool),
            unmapped(run.settings.stage_timeout_seconds),
        )
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            progress(done, len(shards), "shards")
        return [future.result() for future in futures]
    finally:
        pool.stop()


def job_of(run: Run, decision: Decision, function: str, *arguments: Any) -> Job:
    """Return the call of a stage's function that a worker is to make."""
    if decision.inputs is None:
        raise StageError(f"The key of {decision.stage} is not known yet.")
    return Job(
        module=STAGES[decision.stage].module_name,
        function=function,
        store_url=run.store.url,
        data=run.engine.data,
        manifests=run.parents(decision.stage),
        config=run.engine.stage_config(decision.stage),
        inputs=decision.inputs,
        replaces=decision.replaces,
        arguments=arguments,
    )


def _progress(run: Run, stage: StageName) -> Progress:
    report: Callable[[str, int, int, str], None] = run.observer.progresses
    return lambda done, total, text: report(stage, done, total, text)
