"""The flow `blood-cell-training`: ingest → augment → train → evaluate → submit under Prefect.

Every stage is a task. One that is reused ends in the state `Cached`, its reason in the message; one that runs
does its work in a spawned process. The shards of augment are mapped tasks of their own. The engine decides
what runs; Prefect's own task cache is off.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from hemaflow.flows.config.stages import STAGES, FromStage, PipelineConfig, StageName
from hemaflow.flows.engine.engine import Decision
from hemaflow.flows.engine.observer import Everyone, LogObserver, observing
from hemaflow.flows.engine.run import Run
from hemaflow.flows.engine.worker_process import Job, Log, Worker, WorkerPool
from hemaflow.flows.prefect_ui import pages
from hemaflow.flows.prefect_ui.artifacts import ArtifactObserver
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.server.accelerator_slot import accelerator
from hemaflow.flows.server.supervision import supervised
from hemaflow.flows.server.task_runner import task_runner
from hemaflow.infra.errors import StageError, StoreUnavailable
from hemaflow.infra.results.draft import Progress, silent
from hemaflow.infra.results.manifest import Manifest, StoredObject
from hemaflow.infra.settings import current_settings
from hemaflow.tasks.augment.shard_plan import Shard
from hemaflow.tasks.core.stage import Parents

SETTINGS = current_settings()
RETRY_SECONDS: list[float] = [10, 60]
"""How long a task waits before it asks a store again that was away, as its client did for a while."""


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
    """Run what was asked for, inside a flow of Prefect's."""
    run = Run(request, LogObserver(get_run_logger()), SETTINGS)
    artifacts = ArtifactObserver(run)
    watching = observing.get()
    run.observer = Everyone(run.observer, artifacts, *([watching] if watching else []))
    with run.recorded() as record:
        artifacts.planned(run.engine.plan())
        for stage in run.engine.stages:
            with run.decided(stage) as decision:
                if decision.forget:
                    decision.draft(run.store).forget()
                writes_shards = decision.state == "run" and STAGES[stage].fans_out
                parts = write_shards(run, decision) if writes_shards else ()
                title = pages.title(stage, run.engine.stage_config(stage).model_dump())
                stage_task(title, run, decision, parts)
    artifacts.finished()
    return record


def again(_: object, __: object, state: State[Any]) -> bool:
    """Return whether a task that failed is worth another try: nothing else would come out differently."""
    return isinstance(state.result(raise_on_failure=False), StoreUnavailable)


OPTIONS: dict[str, Any] = {
    "task_run_name": "{title}",
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": len(RETRY_SECONDS),
    "retry_delay_seconds": RETRY_SECONDS,
    "retry_condition_fn": again,
}
"""Of every task: the engine decides what is reused, the store's absence alone is worth a retry."""


@task(**OPTIONS)
def stage_task(title: str, run: Run, decision: Decision, parts: Sequence[StoredObject]) -> State[Any]:
    """Make one stage complete: reuse its result, or do its work in a process of its own."""
    stage = decision.stage
    if decision.state == "reuse":
        run.finish(decision)
        return Completed(name="Cached", message=decision.reason)
    job = job_of(run, decision, "finish", parts) if STAGES[stage].fans_out else job_of(run, decision, "run")
    with accelerator(stage, run.settings):
        worker = Worker()
        try:
            manifest = worker.do(job, run.settings.stage_timeout_seconds, _progress(run, stage), _log())
        finally:
            worker.stop()
    if not isinstance(manifest, Manifest):
        raise StageError(f"{stage} did not end with a commit.", received=type(manifest).__name__)
    run.finish(decision, manifest)
    return Completed(message=decision.reason)


@task(**OPTIONS)
def shard_task(title: str, job: Job, pool: WorkerPool | None, timeout_seconds: float) -> StoredObject:
    """Write one shard, or find it complete: in a worker of the pool, or in this process where there is none.

    The processes of Dask and Ray do nothing but such work; the flow's own never does any.
    """
    if pool is None:
        part = job.run(silent)
    else:
        with pool.lend() as worker:
            part = worker.do(job, timeout_seconds, log=_log())
    if not isinstance(part, StoredObject):
        raise StageError(f"{title} did not end with a commit.", received=type(part).__name__)
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
    here = run.settings.task_runner == "threads"
    pool = WorkerPool(min(run.settings.workers, len(shards))) if here else None
    try:
        futures = shard_task.map(
            [f"shard {number}/{len(shards)}" for number in range(1, len(shards) + 1)],
            [job_of(run, decision, "write", shard) for shard in shards],
            unmapped(pool),
            unmapped(run.settings.stage_timeout_seconds),
        )
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            progress(done, len(shards), "shards")
        return [future.result() for future in futures]
    finally:
        if pool:
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
    return lambda done, total, text: run.observer.progresses(stage, done, total, text)


def _log() -> Log:
    """Return what puts a worker's log records into the log of the task run."""
    return get_run_logger().log
