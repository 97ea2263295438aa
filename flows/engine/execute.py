"""Carries out a run, stage by stage: plan once, then reuse or make each stage, and keep the record.

A `Runner` calls the work: `DirectRunner` calls it in this process, with threads for shards; the flow of
`flows/training.py` makes a Prefect task of each call. What is done is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol

from hemaflow.flows.config.stages import STAGES, StageName
from hemaflow.flows.engine.engine import Decision
from hemaflow.flows.engine.report import NAME as REPORT
from hemaflow.flows.engine.report import write_report
from hemaflow.flows.engine.retries import with_retries
from hemaflow.flows.engine.run import Run
from hemaflow.flows.engine.worker_process import Job, Log, WorkerPool
from hemaflow.flows.runs.record import RunRecord
from hemaflow.infra.errors import StageError
from hemaflow.infra.results.manifest import StoredObject
from hemaflow.tasks.augment.shard_plan import Shard
from hemaflow.tasks.core.stage import Parents

log = logging.getLogger(__name__)


class Runner(Protocol):
    """Calls the work of a run."""

    def stage(self, run: Run, decision: Decision, parts: Sequence[StoredObject]) -> None:
        """Call `complete_stage`."""

    def shards(self, run: Run, jobs: Sequence[Job], written: Callable[[int], None]) -> list[StoredObject]:
        """Call `write_shard` for every job; return the shards in the order of the jobs.

        Args:
            run: The run.
            jobs: One for each shard.
            written: Called with the number of shards that are complete.
        """


def execute(run: Run, runner: Runner) -> RunRecord:
    """Carry out a run and return its record."""
    decisions = run.plan()
    with run.recorded() as record:
        run.confirm(decisions)
        for stage in run.engine.stages:
            with run.decided(stage) as decision:
                if decision.forget:
                    decision.draft(run.store).forget()
                if decision.state == "run":
                    _preload_after(run, stage, decisions)
                writes_shards = decision.state == "run" and STAGES[stage].fans_out
                runner.stage(run, decision, _write_shards(run, decision, runner) if writes_shards else ())
            if stage == "evaluate":
                _report(run)
    return record


def complete_stage(
    run: Run, decision: Decision, parts: Sequence[StoredObject], write_log: Log | None = None
) -> None:
    """Make one stage complete: reuse its result, or do its work in the run's worker process.

    Args:
        run: The run.
        decision: What is to happen with the stage.
        parts: The shards, for a stage that is made of them.
        write_log: Receives the worker's log records; hemaflow's logger where None.
    """
    if decision.state == "reuse":
        run.finish(decision)
        return
    fans_out = STAGES[decision.stage].fans_out
    job = job_of(run, decision, "finish", parts) if fans_out else job_of(run, decision, "run")
    progress = run.progress(decision.stage)
    manifest = run.worker.make(job, run.settings.stage_timeout_seconds, progress, write_log or log.log)
    run.finish(decision, manifest)


def write_shard(
    job: Job, pool: WorkerPool, timeout_seconds: float, write_log: Log | None = None
) -> StoredObject:
    """Write one shard in a worker of the pool, or find it complete."""
    with pool.lend() as worker:
        part = worker.do(job, timeout_seconds, log=write_log or log.log)
    if not isinstance(part, StoredObject):
        raise StageError("A shard did not end with a commit.", received=type(part).__name__)
    return part


def job_of(run: Run, decision: Decision, function: str, *arguments: object) -> Job:
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


class DirectRunner:
    """Calls the work in this process; no server is needed."""

    def stage(self, run: Run, decision: Decision, parts: Sequence[StoredObject]) -> None:
        """See Runner."""
        with_retries(lambda: complete_stage(run, decision, parts))

    def shards(self, run: Run, jobs: Sequence[Job], written: Callable[[int], None]) -> list[StoredObject]:
        """See Runner."""
        num_threads = max(1, min(run.settings.workers, len(jobs)))
        threads = ThreadPoolExecutor(num_threads, thread_name_prefix="shards")
        timeout = run.settings.stage_timeout_seconds

        def write(job: Job) -> StoredObject:
            return with_retries(lambda: write_shard(job, run.shard_workers, timeout))

        try:
            futures = [threads.submit(write, job) for job in jobs]
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                written(done)
            return [future.result() for future in futures]
        finally:
            run.shard_workers.stop()
            threads.shutdown(cancel_futures=True)


def _report(run: Run) -> None:
    """Make the report of a run, or find it."""
    made, _ = write_report(run.store, run.record, run.manifests, run.worker, run.settings)
    run.manifests[REPORT] = made


def _preload_after(run: Run, stage: StageName, decisions: Sequence[Decision]) -> None:
    """Have the worker of the next stage import its libraries while this one works, if both are to run."""
    following = next((later for later in decisions if stage in STAGES[later.stage].parents), None)
    if following is None or following.state != "run":
        return
    if not run.engine.stage_config(following.stage).needs_libraries:
        return
    preload, fans_out = STAGES[following.stage].preload, STAGES[following.stage].fans_out
    if preload and not fans_out:
        run.worker.preload(*preload)
    elif preload and run.settings.task_runner == "threads":
        run.shard_workers.preload(*preload)


def _write_shards(run: Run, decision: Decision, runner: Runner) -> list[StoredObject]:
    """Write the shards of a stage side by side; return them in the order of the plan."""
    stage = STAGES[decision.stage]
    draft = decision.draft(run.store)
    for stored in decision.intact:
        draft.commit_part(stored)
    parents = Parents(run.store, run.parents(decision.stage))
    shards: Sequence[Shard] = stage.module.plan(parents, run.engine.stage_config(decision.stage))
    progress = run.progress(decision.stage)
    progress(0, len(shards), "shards")
    jobs = [job_of(run, decision, "write", shard) for shard in shards]
    return runner.shards(run, jobs, lambda done: progress(done, len(shards), "shards"))
