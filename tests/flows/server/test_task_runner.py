"""Chunks of ingest and shards of augment by two worker processes of Dask: the bytes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

from helpers.commands import NUM_SHARDS, ROOT, Whole, command, digests, ended, start, until
from hemaflow.flows.server.task_runner import task_runner
from hemaflow.infra.errors import ConfigError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore


@pytest.fixture
def cluster(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of the scheduler."""
    file = tmp_path / "scheduler.json"
    logs = (tmp_path / "dask.log").open("wb")

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(file), "--no-dashboard"],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=logs,
            stderr=logs,
        )

    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0")
    worker = start("worker", "--nworkers", "2", "--nthreads", "1", "--host", "127.0.0.1")
    try:
        with Client(scheduler_file=str(file), timeout="90s") as client:
            client.wait_for_workers(2, timeout=90)
            address = str(client.scheduler.address)
        yield address
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait(30)
        logs.close()


@pytest.mark.timeout(1500)
def test_a_cluster_writes_the_shards_even_if_a_worker_dies(
    whole: Whole, served: dict[str, str], cluster: str, cells: str, tmp_path: Path
) -> None:
    shared = LocalStore(tmp_path / "shared")
    environment = {**served, "HEMAFLOW_TASK_RUNNER": "dask", "HEMAFLOW_CLUSTER": cluster}
    environment["HEMAFLOW_CHUNK_IMAGES"] = "4"
    process = start(environment, *command(shared, "--data", cells, "--until", "augment"))
    with Client(cluster, timeout="60s") as client:
        first_worker = next(iter(client.run(os.getpid).values()))
        until(lambda: complete(shared), process)
        written = complete(shared)
        os.kill(first_worker, signal.SIGKILL)
        killed_ns = time.time_ns()
    done = ended(process)
    assert done.code == 0, done.err
    assert len(written) < NUM_SHARDS
    for name in written:
        (shard,) = shared.root.glob(f"stages/augment/**/{name}")
        assert shard.stat().st_mtime_ns < killed_ns  # it was not written again
    expected = digests(whole.store, whole.done)
    assert digests(shared, done) == {stage: expected[stage] for stage in ("ingest", "augment")}
    assert done.err.splitlines()[-1] == "imported: prefect"
    with Client(cluster, timeout="60s") as client:
        assert first_worker not in client.run(os.getpid).values()
        assert True in client.run(lambda: "tensorflow" in sys.modules).values()


def complete(store: LocalStore) -> set[str]:
    """The names of the shards of augment that are committed while the others are written."""
    return {path.stem for path in store.root.glob("stages/augment/**/*.tfrecord.json")}


def test_a_runner_that_is_not_installed_is_told_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="ray is not installed") as raised:
        task_runner(Settings(task_runner="ray"))
    assert "pip install prefect-ray" in str(raised.value)
