from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hemaflow.flows.engine.worker_process import THREADS, Job, StageWorker, Worker, WorkerPool
from hemaflow.infra.errors import DataError, StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import KeyInputs, Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import StageConfig

pytestmark = pytest.mark.slow

INPUTS = KeyInputs(stage="train", config={}, parents={}, code={}, libraries={})


def job(store: LocalStore, function: str, *arguments: object) -> Job:
    return Job("helpers.jobs", function, store.url, "", {}, StageConfig(), INPUTS, arguments=arguments)


def until(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True


def test_a_worker_does_the_work_in_another_process_and_reports(store: LocalStore) -> None:
    told: list[tuple[int, int, str]] = []
    worker = Worker()
    try:
        manifest = worker.do(job(store, "commit", "done"), 60, lambda *content: told.append(content))
        assert isinstance(manifest, Manifest)
        assert manifest.facts["pid"] != os.getpid()
        assert manifest.read(store, "text") == b"done"
        assert told == [(1, 2, "half"), (2, 2, "all")]
    finally:
        worker.stop()


def test_errors_come_back_as_they_are_and_the_worker_goes_on(store: LocalStore) -> None:
    worker = Worker()
    try:
        with pytest.raises(DataError, match="No images") as mistake:
            worker.do(job(store, "mistake"), 60)
        assert (mistake.value.where, mistake.value.remedy) == ("row 3", "Give some.")
        with pytest.raises(StageError, match="train failed: ZeroDivisionError: by nought"):
            worker.do(job(store, "bug"), 60)
        assert isinstance(worker.do(job(store, "commit", "x"), 60), Manifest)
    finally:
        worker.stop()


def test_a_worker_prepares_for_its_next_job_and_computes_with_the_threads_it_may(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEMAFLOW_WORKERS", "3")
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    with StageWorker() as worker:
        worker.preload("helpers.jobs.prepare")
        facts = worker.make(job(store, "variables"), 60).facts
    assert (facts["PREPARED"], facts["TF_NUM_INTRAOP_THREADS"]) == ("yes", "3")


def test_what_fails_in_preparation_fails_again_in_the_job_that_needs_it(store: LocalStore) -> None:
    with StageWorker() as worker:
        worker.preload("helpers.jobs.fail_to_prepare", "helpers.jobs.prepare")
        assert worker.make(job(store, "variables"), 60).facts["PREPARED"] == ""


def test_a_pool_lends_the_worker_that_prepared_with_one_thread_and_no_gpu(store: LocalStore) -> None:
    pool = WorkerPool(2)
    try:
        pool.preload("helpers.jobs.prepare")
        with pool.lend() as worker:
            manifest = worker.do(job(store, "variables"), 60)
    finally:
        pool.stop()
    assert isinstance(manifest, Manifest)
    assert manifest.facts == {"PREPARED": "yes", "TF_NUM_INTRAOP_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}


def test_a_pool_that_gave_back_its_workers_lends_others(store: LocalStore) -> None:
    pool = WorkerPool(2)
    try:
        pool.preload("helpers.jobs.prepare")
        pool.release()
        with pool.lend() as worker:
            manifest = worker.do(job(store, "variables"), 60)
    finally:
        pool.stop()
    assert isinstance(manifest, Manifest)
    assert manifest.facts["PREPARED"] == ""


def test_a_killed_worker_is_told_by_its_signal(store: LocalStore) -> None:
    worker = Worker()
    with pytest.raises(StageError, match="ended with signal SIGKILL"):
        worker.do(job(store, "die"), 60)
    worker.stop()


def test_work_that_takes_too_long_is_stopped(store: LocalStore) -> None:
    worker = Worker()
    with pytest.raises(StageError, match="took longer than 3 seconds"):
        worker.do(job(store, "sleep"), 3)
    pid = int(Draft(store, INPUTS).kept("pid") or 0)
    assert not alive(pid)


def test_a_stopped_worker_keeps_its_checkpoint_and_ends(store: LocalStore) -> None:
    worker = Worker()
    draft = Draft(store, INPUTS)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            worker.do(job(store, "sleep_and_keep"), 60)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: draft.kept("pid"))
    started = time.monotonic()
    worker.stop()
    assert draft.kept("checkpoint") == b"kept"
    assert time.monotonic() - started < 15
    thread.join(20)
    assert isinstance(raised[0], StageError | OSError)


def test_a_worker_ends_when_its_parent_is_killed(store: LocalStore) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_worker_process import job, Worker, LocalStore; from pathlib import Path\n"
        "Worker().do(job(LocalStore(Path(sys.argv[3])), 'sleep'), 60)"
    )
    here = Path(__file__).parent
    arguments = [str(here), str(here.parents[1]), str(store.root)]
    parent = subprocess.Popen([sys.executable, "-c", code, *arguments])
    draft = Draft(store, INPUTS)
    until(lambda: draft.kept("pid"))
    pid = int(draft.kept("pid") or 0)
    parent.kill()
    parent.wait()
    until(lambda: not alive(pid))


def test_a_pool_lends_each_worker_to_one_thread_and_replaces_the_dead(store: LocalStore) -> None:
    pool = WorkerPool(2)
    try:
        with pytest.raises(StageError, match="SIGKILL"), pool.lend() as worker:
            worker.do(job(store, "die"), 60)
        with pool.lend() as one, pool.lend() as other:
            assert one is not other
            assert isinstance(one.do(job(store, "commit", "x"), 60), Manifest)
    finally:
        pool.stop()
    with pytest.raises(StageError, match="was stopped"), pool.lend() as worker:
        pass
