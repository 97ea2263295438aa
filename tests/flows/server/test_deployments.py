"""Run as Prefect users run things: deployments on a real server, by a real worker, over a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from helpers.browser import Browser, needs_browser
from helpers.commands import needs_proc, optimizer_steps
from helpers.served import Server, ended
from hemaflow.flows.runs.find import find_run
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import open_store

SMALL = [
    "ingest.image_size_pixels=32",
    "train.input_size_pixels=32",
    "train.fine_tuning.epochs=6",
    "evaluate.bootstrap_resamples=50",
    "evaluate.robustness_images=24",
]
LONG = [*SMALL, "train.fine_tuning.epochs=2000"]
"""A training that goes on until it is ended."""
END_SECONDS = 60.0
"""How long a training may go on after it was ended; about 10 on two quiet cores."""
MEMORY_BYTES = 300_000_000
SLOT = "v2/concurrency_limits/hemaflow-accelerator"

pytestmark = [needs_proc, pytest.mark.timeout(900)]


def test_all_deployments_are_registered(server: Server) -> None:
    found = server.api.post("deployments/filter", json={}).raise_for_status().json()
    flows = {flow["id"]: flow["name"] for flow in server.api.post("flows/filter", json={}).json()}
    named = {f"{flows[one['flow_id']]}/{one['name']}": one for one in found}
    assert named.keys() == {
        *(f"blood-cell-training/{name}" for name in ("adhoc", "weekly")),
        "backbone-comparison/adhoc",
        "label-errors/adhoc",
        "retraining/weekly",
    }
    for name, one in named.items():
        assert one["work_pool_name"] == "hemaflow"
        assert one["tags"] == ["blood-cells"]
        assert one["version"].startswith("0.1.0+")
        for schedule in one["schedules"]:
            assert not schedule["active"]
        assert bool(one["schedules"]) == name.endswith("/weekly")
        schema = one["parameter_openapi_schema"]["properties"]
        known = schema["recipes"]["items"] if "recipes" in schema else schema["recipe"]
        assert set(known["enum"]) >= {"demo", "laptop", "seed"}
        assert all(field["description"] for field in schema.values()), name
        if name.endswith("/weekly"):  # never beside itself
            assert one["global_concurrency_limit"]["limit"] == 1
            assert one["concurrency_options"]["collision_strategy"] == "ENQUEUE"


def test_a_slot_that_the_server_does_not_have_is_a_mistake(server: Server) -> None:
    said = server.run(
        "-c",
        "from hemaflow.flows.server.accelerator_slot import release_leaked\n"
        "from hemaflow.infra.errors import ConfigError\n"
        "try:\n    release_leaked('nobody-made-it')\n"
        "except ConfigError as error:\n    print(error)",
    )
    assert "HEMAFLOW_ACCELERATOR_SLOT=nobody-made-it" in said
    assert "hemaflow prepare" in said


class Ran(NamedTuple):
    """Two runs of one deployment with the same parameters, by their ids, and what the first said."""

    first: str
    again: str
    said: str


@pytest.fixture(scope="module")
def ran(server: Server, cells: str) -> Ran:
    """The first as the README has it typed, the second as the UI starts it."""
    parameters = {"recipe": "demo", "data": cells, "changes": SMALL, "store": "s3://hemaflow/ran"}
    given = [
        f"{name}={value if name == 'recipe' else json.dumps(value)}" for name, value in parameters.items()
    ]
    worker, living = server.worker()
    try:
        said = server.run(
            *("-m", "prefect", "deployment", "run", "blood-cell-training/adhoc", "--watch"),
            *(part for one in given for part in ("-p", one)),
        )
        first = server.last_runs()[0]["id"]
        again = server.start("blood-cell-training/adhoc", **parameters)
        assert server.until(again, "Completed", "Failed", "Crashed") == "Completed"
    finally:
        ended(worker, living)
    return Ran(first, again, said)


def test_a_deployment_runs_to_the_end_and_is_cached_the_next_time(server: Server, ran: Ran) -> None:
    assert "Flow run finished successfully in 'Completed'" in ran.said
    assert server.task_states(ran.first) == dict.fromkeys(
        ["ingest", "augment part 1/1", "augment 1 copy", "train cnn", "predict", "evaluate flips", "submit"],
        "Completed",
    )
    assert server.task_states(ran.again) == dict.fromkeys(
        ["ingest", "augment 1 copy", "train cnn", "predict", "evaluate flips", "submit"], "Cached"
    )
    run = server.api.get(f"flow_runs/{ran.first}").json()
    assert run["name"] == "demo on cells"
    assert run["deployment_version"].startswith("0.1.0+")
    assert any("training on CPU" in line for line in server.logs(ran.first))  # said in a process of its own


def test_artifacts_say_what_came_of_a_run(server: Server, ran: Ran) -> None:
    pages = server.artifacts(ran.first)
    assert pages["progress-train"] == 100.0
    assert "| train | **runs** |" in pages["plan"]
    assert "| basophil |" in pages["data-quality"]
    assert "| Accuracy |" in pages["metrics"]
    assert "is \\ called" in pages["metrics"]
    assert "| submit |" in pages["lineage"]
    assert "submission.zip" in pages["outputs"]
    cached = server.artifacts(ran.again)
    assert "| train | reused |" in cached["plan"]
    assert not [key for key in cached if key.startswith("progress-")]


@pytest.mark.usefixtures("s3_variables")
def test_a_comparison_shares_what_is_complete_and_ranks(server: Server, ran: Ran, cells: str) -> None:
    shared = open_store("s3://hemaflow/ran")
    trained = [name for name in shared.list("stages/train/") if name.endswith("/manifest.json")]
    assert len(trained) == 1
    parameters = {"recipes": ["demo"], "data": cells, "changes": SMALL, "store": shared.url}
    worker, living = server.worker()
    try:
        run = server.start("backbone-comparison/adhoc", backbones=["cnn"], **parameters)
        assert server.until(run, "Completed", "Failed", "Crashed") == "Completed", server.logs(run)
    finally:
        ended(worker, living)
    assert [name for name in shared.list("stages/train/") if name.endswith("/manifest.json")] == trained
    page = server.artifacts(run)["leaderboard"]
    [row] = [line for line in page.splitlines() if "| demo, cnn |" in line]
    assert row.startswith("| 1 |")
    assert "(data:image/png;base64," in page


@needs_browser
def test_the_ui_shows_runs_artifacts_and_the_form(server: Server, ran: Ran, tmp_path: Path) -> None:
    """With HEMAFLOW_SCREENSHOTS=docs, the pictures of the documentation are made anew."""
    pictures = Path(os.environ.get("HEMAFLOW_SCREENSHOTS", tmp_path))
    address = server.environment["PREFECT_API_URL"].removesuffix("/api")
    deployment = server.api.get("deployments/name/blood-cell-training/adhoc").json()["id"]
    pages = {
        artifact["key"]: artifact["id"]
        for artifact in server.api.post(
            "artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [ran.first]}}}
        ).json()
    }
    with Browser() as browser:
        for name, path, expected in (
            ("run", f"runs/flow-run/{ran.first}", ["demo on cells", "Completed", "7 Task runs"]),
            ("cached", f"runs/flow-run/{ran.again}", ["demo on cells", "6 Task runs"]),
            ("plan", f"artifacts/artifact/{pages['plan']}", ["Plan", "because", "never built in this store"]),
            (
                "metrics",
                f"artifacts/artifact/{pages['metrics']}",
                ["Balanced accuracy", "recall", "monocyte"],
            ),
            ("data-quality", f"artifacts/artifact/{pages['data-quality']}", ["basophil", "Findings"]),
            (
                "form",
                f"deployments/deployment/{deployment}/run",
                ["The recipe whose config is used", "laptop"],
            ),
        ):
            text = browser.open(f"{address}/{path}", expected[0])
            if name == "cached":
                text = browser.tab("Task Runs", "train cnn")
                assert text.count("Cached") >= 6
            for words in expected[1:]:
                assert words in text or words in browser.source, (name, words)
            browser.save(pictures / f"{name}.png")
            assert (pictures / f"{name}.png").stat().st_size > 20_000


def test_what_fails_is_told_to_a_webhook_and_not_tried_again(server: Server) -> None:
    told: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    worker, living = server.worker()
    try:
        address = f"http://127.0.0.1:{listener.server_port}/"
        for _ in range(2):  # once more changes nothing
            server.run("-m", "hemaflow", "prepare", "--webhook", address)
        automations = server.api.post("automations/filter", json={}).raise_for_status().json()
        assert len(automations) == len({one["name"] for one in automations}) == 2
        run = server.start("blood-cell-training/adhoc", data="/no/such/folder", store="s3://hemaflow/none")
        assert server.until(run, "Failed", "Completed", "Crashed") == "Failed"
        server.wait(lambda: told, 60)
    finally:
        ended(worker, living)
        listener.shutdown()
        listener.server_close()
        thread.join()
    notice = told[0]  # at least once, says Prefect
    assert all(other == notice for other in told)
    assert notice["flow"] == "blood-cell-training"
    assert notice["state"] == "Failed"
    assert "There is no such data source" in notice["message"]
    assert run in notice["url"]
    assert server.api.get(f"flow_runs/{run}").json()["run_count"] == 1


def flow_process(living: Callable[[], list[int]]) -> psutil.Process:
    """Return the process of the flow itself: the parent of the one that has TensorFlow."""
    [loaded] = [pid for pid in living() if is_training(pid)]
    parent = psutil.Process(loaded).parent()
    assert parent is not None
    return parent


def is_training(pid: int) -> bool:
    try:
        return any("tensorflow" in mapped.path for mapped in psutil.Process(pid).memory_maps())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("s3_variables")
def test_a_training_that_is_ended_leaves_nothing_running_and_goes_on_from_its_checkpoint(
    server: Server, ran: Ran, cells: str
) -> None:
    """One training, ended in three ways; each worker goes on where the one before was ended."""
    store = open_store("s3://hemaflow/ran")  # where the images are prepared
    parameters = {"data": cells, "changes": LONG, "until_stage": "train", "store": store.url}
    # A server that was restarted forgot who held the slot.
    server.api.patch(SLOT, json={"active_slots": 1}).raise_for_status()
    kept = 0
    for end in ("worker killed", "worker terminated", "cancelled"):
        train_and_end(server, store, parameters, end, kept)
        kept = optimizer_steps(store)


def train_and_end(server: Server, store: Store, parameters: dict[str, Any], end: str, kept: int) -> None:
    """Train from a checkpoint of so many steps, if any, until there is another; then end it."""
    worker, living = server.worker(HEMAFLOW_ACCELERATOR_SLOT="hemaflow-accelerator")
    try:
        run = server.start("blood-cell-training/adhoc", **parameters)
        server.wait(lambda: optimizer_steps(store) > kept)
        assert any("continuing from epoch" in line for line in server.logs(run)) == bool(kept)
        assert server.task_states(run)["ingest"] == "Cached"
        flow = flow_process(living)
        assert flow.memory_info().rss < MEMORY_BYTES
        assert not is_training(flow.pid)
        if end == "cancelled":
            body = {"state": {"type": "CANCELLING"}}
            server.api.post(f"flow_runs/{run}/set_state", json=body).raise_for_status()
        else:
            worker.send_signal(signal.SIGTERM if end == "worker terminated" else signal.SIGKILL)
        server.wait(lambda: not any(is_training(pid) for pid in living()), END_SECONDS)
        server.wait(lambda: not flow.is_running() or flow.status() == psutil.STATUS_ZOMBIE)
        expected = "Cancelled" if end == "cancelled" else "Crashed"
        assert server.until(run, "Cancelled", "Crashed", "Failed", "Completed") == expected
    finally:
        ended(worker, living)
    server.wait(lambda: server.api.get(SLOT).json()["active_slots"] == 0)
    assert find_run(store).status == "interrupted"
