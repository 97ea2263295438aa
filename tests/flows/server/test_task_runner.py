"""Chunks of ingest and shards of augment by two worker processes of Dask: the bytes of this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

from helpers.commands import ROOT, Whole, digests, run
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
def test_shards_are_written_by_a_cluster(
    whole: Whole, served: dict[str, str], cluster: str, cells: str, tmp_path: Path
) -> None:
    shared = LocalStore(tmp_path / "shared")
    environment = {**served, "HEMAFLOW_TASK_RUNNER": "dask", "HEMAFLOW_CLUSTER": cluster}
    environment["HEMAFLOW_CHUNK_IMAGES"] = "4"
    done = run(environment, shared, "--data", cells, "--until", "augment")
    assert done.code == 0, done.err
    expected = digests(whole.store, whole.done)
    assert digests(shared, done) == {stage: expected[stage] for stage in ("ingest", "augment")}
    assert done.err.splitlines()[-1] == "imported: prefect"
    with Client(cluster, timeout="60s") as client:
        loaded = client.run(lambda: "tensorflow" in sys.modules)
    assert list(loaded.values()) == [True, True]


def test_a_runner_that_is_not_installed_is_told_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="ray is not installed") as raised:
        task_runner(Settings(task_runner="ray"))
    assert "pip install prefect-ray" in str(raised.value)
