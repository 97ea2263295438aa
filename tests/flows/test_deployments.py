"""Run as Prefect users run things: deployments on a real server, by a real worker, over a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from commands import ROOT, gone, marked, needs_proc, optimizer_steps
from PIL import Image

from infra.stack import Stack, free_ports
from infra.store import Store
from infra.stores import open_store
from tasks.classes import PBC_CLASSES
from tasks.sample import draw_cell

SMALL = ["ingest.image_size_pixels=32", "evaluate.bootstrap_resamples=50"]
LONG = [*SMALL, "train.fine_tuning.epochs=400"]
"""A training that goes on until it is ended."""
CANCEL_SECONDS = 15.0
MEMORY_BYTES = 300_000_000

pytestmark = needs_proc


class Server:
    """A Prefect server beside an S3 server, with the deployments of this checkout."""

    def __init__(self, folder: Path) -> None:
        self.stack = Stack(folder / "stack")
        self.folder = folder
        s3_port, prefect_port = free_ports(2)
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("AWS_", "PREFECT_", "HEMAFLOW_"))}
        self.environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(folder / "prefect-home"),
            "HEMAFLOW_STAGING_DIR": str(folder / "staging"),
        }
        options = ["--folder", str(self.stack.folder), "--s3-port", str(s3_port)]
        self.run("-m", "flows.cli", "stack", "up", *options, "--prefect-port", str(prefect_port))
        self.environment |= self.stack.environment()
        self.run("-m", "prefect", "--no-prompt", "deploy", "--all")
        self.api = httpx.Client(base_url=f"{self.environment['PREFECT_API_URL']}/", timeout=30)

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def worker(self, **environment: str) -> tuple[subprocess.Popen[str], Callable[[], list[int]]]:
        """Start a worker; give also what finds the living processes that come from it."""
        own, living = marked({**self.environment, **environment})
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "hemaflow"],
            cwd=self.folder,
            env=own,
            stdout=(self.folder / "worker.log").open("w"),
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return process, living

    def start(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run of a deployment; give its id."""
        found = self.api.get(f"deployments/name/{deployment}").raise_for_status().json()
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        answer = self.api.post(f"deployments/{found['id']}/create_flow_run", json=body)
        return str(answer.raise_for_status().json()["id"])

    def state(self, run: str) -> str:
        return str(self.api.get(f"flow_runs/{run}").raise_for_status().json()["state_name"])

    def until(self, run: str, *states: str, seconds: float = 300) -> str:
        deadline = time.monotonic() + seconds
        while (now := self.state(run)) not in states:
            assert time.monotonic() < deadline, (now, (self.folder / "worker.log").read_text()[-3000:])
            time.sleep(0.3)
        return now

    def task_states(self, run: str) -> dict[str, str]:
        body = {"flow_runs": {"id": {"any_": [run]}}}
        found = self.api.post("task_runs/filter", json=body).raise_for_status().json()
        return {task["name"]: task["state_name"] for task in found}

    def artifacts(self, run: str) -> dict[str, Any]:
        body = {"artifacts": {"flow_run_id": {"any_": [run]}}}
        found = self.api.post("artifacts/filter", json=body).raise_for_status().json()
        return {artifact["key"]: artifact["data"] for artifact in found}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("served"))
    yield made
    made.api.close()
    made.stack.down()


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "cells"
    for label, name in enumerate(PBC_CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(20):
            Image.fromarray(draw_cell(label, index)).save(folder / name / f"{index}.png")
    return str(folder)


@pytest.fixture
def store(server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    """A store of the test's own in the S3 server."""
    for name, value in server.environment.items():
        if name.startswith(("AWS_", "HEMAFLOW_STAGING")):
            monkeypatch.setenv(name, value)
    return open_store(f"s3://hemaflow/{request.node.name.replace('[', '-').rstrip(']')}")


def ended(process: subprocess.Popen[str], living: Callable[[], list[int]]) -> None:
    """End a worker in order, and see that nothing of it is left."""
    process.terminate()
    process.wait(60)
    assert gone(living)


def test_all_deployments_are_registered(server: Server) -> None:
    found = server.api.post("deployments/filter", json={}).raise_for_status().json()
    flows = {flow["id"]: flow["name"] for flow in server.api.post("flows/filter", json={}).json()}
    named = {f"{flows[one['flow_id']]}/{one['name']}": one for one in found}
    assert {"blood-cell-training/adhoc", "blood-cell-training/weekly"} <= named.keys()
    for name, one in named.items():
        assert one["work_pool_name"] == "hemaflow"
        assert one["tags"] == ["blood-cells"]
        assert one["version"].startswith("0.1.0+")
        for schedule in one["schedules"]:
            assert not schedule["active"]
        assert bool(one["schedules"]) == name.endswith("/weekly")
    schema = named["blood-cell-training/adhoc"]["parameter_openapi_schema"]["properties"]
    assert set(schema["recipe"]["enum"]) >= {"demo", "laptop", "seed"}
    assert all(field["description"] for field in schema.values())
    weekly = named["blood-cell-training/weekly"]
    assert weekly["global_concurrency_limit"]["limit"] == 1
    assert weekly["concurrency_options"]["collision_strategy"] == "ENQUEUE"


def test_a_deployment_runs_to_the_end_and_is_cached_the_next_time(
    server: Server, store: Store, cells: str
) -> None:
    parameters = {"recipe": "demo", "data": cells, "changes": SMALL, "store": store.url}
    given = [f"-p{name}={json.dumps(value)}" for name, value in parameters.items() if name != "recipe"]
    worker, living = server.worker()
    try:
        said = server.run(
            *("-m", "prefect", "deployment", "run", "blood-cell-training/adhoc", "--watch"),
            *("-p", "recipe=demo", *(part for one in given for part in ("-p", one[2:]))),
        )
        assert "Completed" in said
        again = server.start("blood-cell-training/adhoc", **parameters)
        assert server.until(again, "Completed", "Failed", "Crashed") == "Completed"
    finally:
        ended(worker, living)
    runs = server.api.post("flow_runs/filter", json={"sort": "START_TIME_DESC"}).json()
    first = next(run for run in runs if run["id"] != again)
    tasks = server.task_states(first["id"])
    assert tasks == dict.fromkeys(
        ["ingest", "shard 1/1", "augment 1 copies", "train cnn", "evaluate flips", "submit"], "Completed"
    )
    pages = server.artifacts(first["id"])
    assert {"plan", "data-quality", "metrics", "lineage", "outputs", "progress-train"} <= pages.keys()
    assert pages["progress-train"] == 100.0
    assert "| accuracy |" in pages["metrics"]
    assert "basophil" in pages["data-quality"]
    assert first["name"] == "demo on cells"
    assert server.task_states(again) == dict.fromkeys(
        ["ingest", "augment 1 copies", "train cnn", "evaluate flips", "submit"], "Cached"
    )
    logs = server.api.post("logs/filter", json={"logs": {"flow_run_id": {"any_": [first["id"]]}}}).json()
    assert any("training on CPU" in log["message"] for log in logs)  # said in a process of its own


def flow_process(living: Callable[[], list[int]]) -> psutil.Process:
    """Return the process of the flow itself: the parent of the one that has TensorFlow."""
    found = [psutil.Process(pid) for pid in living()]
    [loaded] = [process for process in found if is_training(process)]
    parent = loaded.parent()
    assert parent is not None
    return parent


def is_training(process: psutil.Process) -> bool:
    try:
        return any("tensorflow" in mapped.path for mapped in process.memory_maps())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def trained(store: Store) -> Callable[[], int]:
    return lambda: optimizer_steps(store)


def wait_for(condition: Callable[[], object], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("end", ["cancelled", "worker terminated", "worker killed"])
def test_a_training_that_is_ended_leaves_nothing_running_and_goes_on_from_its_checkpoint(
    server: Server, store: Store, cells: str, end: str
) -> None:
    parameters = {"data": cells, "until_stage": "train", "store": store.url}
    worker, living = server.worker(HEMAFLOW_ACCELERATOR_SLOT="hemaflow-accelerator")
    try:
        run = server.start("blood-cell-training/adhoc", changes=LONG, **parameters)
        wait_for(trained(store))
        flow = flow_process(living)
        assert flow.memory_info().rss < MEMORY_BYTES
        assert not is_training(flow)
        began = time.monotonic()
        if end == "cancelled":
            body = {"state": {"type": "CANCELLING"}}
            server.api.post(f"flow_runs/{run}/set_state", json=body).raise_for_status()
        else:
            worker.send_signal(signal.SIGTERM if end == "worker terminated" else signal.SIGKILL)
        wait_for(lambda: not any(is_training(psutil.Process(pid)) for pid in living()), CANCEL_SECONDS)
        assert time.monotonic() - began < CANCEL_SECONDS
        wait_for(lambda: not flow.is_running())
        expected = "Cancelled" if end == "cancelled" else "Crashed"
        assert server.until(run, "Cancelled", "Crashed", "Failed", "Completed") == expected
    finally:
        ended(worker, living)
    kept = optimizer_steps(store)
    record = json.loads(store.get(next(iter(store.list("runs/")))))
    assert record["status"] == "interrupted"

    # The same training, ended earlier: it has the same key, so it goes on from the checkpoint.
    worker, living = server.worker(HEMAFLOW_ACCELERATOR_SLOT="hemaflow-accelerator")
    try:
        began = time.monotonic()
        again = server.start("blood-cell-training/adhoc", changes=LONG, **parameters)
        wait_for(lambda: optimizer_steps(store) > kept)
        logs = server.api.post("logs/filter", json={"logs": {"flow_run_id": {"any_": [again]}}}).json()
        assert any("going on from epoch" in log["message"] for log in logs)
        assert server.task_states(again)["ingest"] == "Cached"
    finally:
        ended(worker, living)
