"""Carries out a run, stage by stage: plan once, then reuse or make each stage, and keep the record.

A `Runner` calls the work: `DirectRunner` calls it in this process, with threads for parts; the flow of
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
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.ingest.reference_set import absolute

log = logging.getLogger(__name__)


class Runner(Protocol):
    """Calls the work of a run."""

    def stage(self, run: Run, decision: Decision, parts: Sequence[StoredObject]) -> None:
        """Call `complete_stage`."""

    def parts(self, run: Run, jobs: Sequence[Job], written: Callable[[int], None]) -> list[StoredObject]:
        """Call `write_part` for every job; return the parts that were written, in the order of the jobs.

        Args:
            run: The run.
            jobs: One for each part.
            written: Called with the number of parts that are complete.
        """


def execute(run: Run, runner: Runner) -> RunRecord:
    """Carry out a run and return its record."""
    decisions = run.plan()
    with run.recorded() as record:
        run.confirm(decisions)
        for place, stage in enumerate(run.engine.stages):
            with run.decided(stage) as decision:
                if decision.forget:
                    decision.draft(run.store).forget()
                later = [one for one in decisions[place + 1 :] if one.state == "run"]
                parts: list[StoredObject] = []
                if decision.state == "run":
                    jobs = _part_jobs(run, decision) if STAGES[stage].fans_out else []
                    _preload_for(run, stage, later, in_pool=False)
                    parts = _write_parts(run, decision, jobs, runner) if jobs else []
                    _preload_for(run, stage, later, in_pool=True)
                if not any(STAGES[one.stage].fans_out for one in later):
                    run.shard_workers.release()
                runner.stage(run, decision, parts)
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
        parts: The parts, for a stage that is made of them.
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


def write_part(
    job: Job, pool: WorkerPool, timeout_seconds: float, write_log: Log | None = None
) -> StoredObject | None:
    """Write one part of a stage in a worker of the pool, or find it complete."""
    with pool.lend() as worker:
        return part_of(worker.do(job, timeout_seconds, log=write_log or log.log))


def part_of(result: object) -> StoredObject | None:
    """Return what a job made of a part; None where it left the part to `finish`. Raises StageError."""
    if result is None or isinstance(result, StoredObject):
        return result
    raise StageError("A part did not end with a commit.", received=type(result).__name__)


def job_of(run: Run, decision: Decision, function: str, *arguments: object) -> Job:
    """Return the call of a stage's function that a worker is to make."""
    if decision.inputs is None:
        raise StageError(f"The key of {decision.stage} is not known yet.")
    return Job(
        module=STAGES[decision.stage].module_name,
        function=function,
        store_url=run.store.url,
        data=absolute(run.engine.data),
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

    def parts(self, run: Run, jobs: Sequence[Job], written: Callable[[int], None]) -> list[StoredObject]:
        """See Runner."""
        num_threads = max(1, min(run.settings.workers, len(jobs)))
        threads = ThreadPoolExecutor(num_threads, thread_name_prefix="parts")
        timeout = run.settings.stage_timeout_seconds

        def write(job: Job) -> StoredObject | None:
            return with_retries(lambda: write_part(job, run.shard_workers, timeout))

        try:
            futures = [threads.submit(write, job) for job in jobs]
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                written(done)
            return [part for future in futures if (part := future.result())]
        except BaseException:
            run.shard_workers.stop()
            raise
        finally:
            threads.shutdown(cancel_futures=True)


def _report(run: Run) -> None:
    """Make the report of a run, or find it."""
    made, _ = write_report(run.store, run.record, run.manifests, run.worker, run.settings)
    run.manifests[REPORT] = made


def _preload_for(run: Run, stage: StageName, later: Sequence[Decision], *, in_pool: bool) -> None:
    """Have a worker import the libraries of the next stage while this one works.

    Args:
        run: The run.
        stage: This stage.
        later: The stages that run after it.
        in_pool: Whether to ask the pool, for a next stage whose parts it writes; else the stage worker.
    """
    following = next((one.stage for one in later if stage in STAGES[one.stage].parents), None)
    if following is None or STAGES[following].fans_out != in_pool:
        return
    if not STAGES[following].preload or not run.engine.stage_config(following).needs_libraries:
        return
    if not in_pool:
        run.worker.preload(*STAGES[following].preload)
    elif run.settings.task_runner == "threads":
        run.shard_workers.preload(*STAGES[following].preload)


def _part_jobs(run: Run, decision: Decision) -> list[Job]:
    """Plan the parts of a stage; return a job for each."""
    draft = decision.draft(run.store)
    for stored in decision.intact:
        draft.commit_part(stored)
    stage, config = STAGES[decision.stage], run.engine.stage_config(decision.stage)
    if stage.parents:
        planned = stage.module.plan(Parents(run.store, run.parents(decision.stage)), config)
    else:  # it lists the source, which takes memory, and libraries that this process is not to load
        job, timeout = job_of(run, decision, "plan"), run.settings.stage_timeout_seconds
        planned = with_retries(lambda: run.worker.do(job, timeout, log=log.log))
    if not isinstance(planned, list):
        raise StageError(f"{stage.name} has no plan.", received=type(planned).__name__)
    return [job_of(run, decision, "write", part) for part in planned]


def _write_parts(run: Run, decision: Decision, jobs: Sequence[Job], runner: Runner) -> list[StoredObject]:
    """Write the parts of a stage side by side; return them in the order of the plan."""
    progress, text = run.progress(decision.stage), STAGES[decision.stage].parts
    progress(0, len(jobs), text)
    return runner.parts(run, jobs, lambda done: progress(done, len(jobs), text))
