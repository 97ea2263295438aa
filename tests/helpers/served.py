"""A Prefect server and an S3 server as production has them, with the deployments of this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from helpers.commands import ROOT, gone, marked
from hemaflow.infra.deploy.stack import Stack, free_ports
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.sources.sample_cells import draw_cell


class Patient(httpx.Client):
    """Asks again where the server's database is locked, as on a busy machine: nothing was done then."""

    def request(self, *arguments: Any, **options: Any) -> httpx.Response:
        for _ in range(20):
            answer = super().request(*arguments, **options)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1.0)
        return answer


class Server:
    """Both servers, and what a person does with them."""

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
        try:
            self.run("-m", "hemaflow", "stack", "up", *options, "--prefect-port", str(prefect_port))
            self.environment |= self.stack.environment()
            self.run("-m", "prefect", "--no-prompt", "deploy", "--all")
        except BaseException:
            self.stack.down()
            raise
        self.api = Patient(base_url=f"{self.environment['PREFECT_API_URL']}/", timeout=30)

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def worker(self, **environment: str) -> tuple[subprocess.Popen[str], Callable[[], list[int]]]:
        """Start a worker; give also what finds the living processes that come from it."""
        own, living = marked({**self.environment, **environment})
        with (self.folder / "worker.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "hemaflow", "worker"],
                cwd=self.folder,
                env=own,
                stdout=log,
                stderr=log,
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

    def wait(self, condition: Callable[[], object], seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "worker.log").read_text()[-3000:]
            time.sleep(0.3)

    def until(self, run: str, *states: str, seconds: float = 300) -> str:
        self.wait(lambda: self.state(run) in states, seconds)
        return self.state(run)

    def task_states(self, run: str) -> dict[str, str]:
        body = {"flow_runs": {"id": {"any_": [run]}}}
        found = self.api.post("task_runs/filter", json=body).raise_for_status().json()
        return {task["name"]: task["state_name"] for task in found}

    def artifacts(self, run: str) -> dict[str, Any]:
        body = {"artifacts": {"flow_run_id": {"any_": [run]}}}
        found = self.api.post("artifacts/filter", json=body).raise_for_status().json()
        return {artifact["key"]: artifact["data"] for artifact in found}

    def last_runs(self, **filters: Any) -> list[dict[str, Any]]:
        body = {"sort": "START_TIME_DESC", **filters}
        found: list[dict[str, Any]] = self.api.post("flow_runs/filter", json=body).raise_for_status().json()
        return found

    def logs(self, run: str) -> list[str]:
        body = {"logs": {"flow_run_id": {"any_": [run]}}}
        return [log["message"] for log in self.api.post("logs/filter", json=body).raise_for_status().json()]

    def close(self) -> None:
        self.api.close()
        self.stack.down()


def ended(process: subprocess.Popen[str], living: Callable[[], list[int]]) -> None:
    """End a worker in order, and see that nothing of it is left."""
    process.terminate()
    process.wait(90)
    assert gone(living)


def draw_cells(folder: Path, first: int, count: int) -> str:
    """Draw that many cells of each class into a folder of class folders; give its path."""
    for label, name in enumerate(PBC_CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + count):
            Image.fromarray(draw_cell(label, index)).save(folder / name / f"{index}.png")
    return str(folder)
