"""Retraining with a gate, as a schedule fires it: real servers, a real worker, a store in S3."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import needs_proc
from helpers.here import work_in_this_process
from helpers.results import Silent
from helpers.served import Server, draw_cells, ended
from hemaflow.flows.runs.champion import current
from hemaflow.flows.workflows.host import DirectHost
from hemaflow.flows.workflows.retraining import retrain
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store

SMALL = [
    "ingest.image_size_pixels=32",
    "train.input_size_pixels=32",
    "augment.copies=0",
    "train.batch_size=8",
    "train.fine_tuning.epochs=10",
    "evaluate.bootstrap_resamples=50",
    "evaluate.robustness=none",
    "evaluate.num_explained=0",
    "evaluate.tta=none",
]
UNTRAINED = ["train.fine_tuning.epochs=0"]
NOTHING_NEW_SECONDS = 60.0
"""How long a run that finds nothing new may take; about 8 after it was due on two quiet cores."""
ENDS = ("NothingNew", "Promoted", "NotPromoted", "Overtaken", "Failed", "Crashed")

pytestmark = needs_proc


def seconds(run: dict[str, Any]) -> float:
    """Return how long a run took; it may have waited before, since only one goes on at a time."""
    start, end = (datetime.fromisoformat(run[name]) for name in ("start_time", "end_time"))
    return (end - start).total_seconds()


@pytest.mark.timeout(1800)  # three trainings
def test_a_schedule_retrains_on_what_is_new_and_promotes_only_what_is_no_worse(
    server: Server, served_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = served_store
    incoming = draw_cells(tmp_path / "incoming", 0, 20)
    parameters = {
        "data": incoming,
        "recipe": "demo",
        "changes": SMALL,
        "delta": 0.2,
        "store": store.url,
    }
    deployment = server.api.get("deployments/name/retraining/weekly").raise_for_status().json()
    address = f"deployments/{deployment['id']}"
    worker, living = server.worker()
    try:
        # Every ten seconds: the first firing trains, a later one, once that is done, finds nothing new.
        server.api.patch(address, json={"parameters": parameters}).raise_for_status()
        often = {"active": True, "schedule": {"interval": 10, "timezone": "UTC"}}
        [schedule] = server.api.post(f"{address}/schedules", json=[often]).raise_for_status().json()
        mine = {"deployments": {"id": {"any_": [deployment["id"]]}}}

        def of_state(name: str) -> list[dict[str, Any]]:
            found = server.last_runs(**mine, flow_runs={"state": {"name": {"any_": [name]}}})
            return [run for run in found if run["end_time"]]

        server.wait(lambda: of_state("NothingNew"), 420)
        server.api.delete(f"{address}/schedules/{schedule['id']}").raise_for_status()
        [promoted] = of_state("Promoted")
        assert min(seconds(run) for run in of_state("NothingNew")) < NOTHING_NEW_SECONDS
        assert not of_state("Failed")
        first = current(store)
        assert first is not None
        assert first.run in promoted["state"]["message"]
        # What was due while the first trained is still waiting for its turn: it would train what comes next.
        for waiting in server.last_runs(**mine, flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}}):
            server.api.delete(f"flow_runs/{waiting['id']}")
        under_way = {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}
        server.wait(lambda: not server.last_runs(**mine, flow_runs=under_way))

        # New images: it retrains, and judges both on the images that the first was evaluated on.
        draw_cells(tmp_path / "incoming", 20, 6)
        again = server.start("retraining/weekly", **parameters)
        assert server.until(again, *ENDS) == "Promoted", server.logs(again)
        second = current(store)
        assert second is not None
        assert second.run != first.run
        assert second.reference == first.reference
        pages = server.artifacts(again)
        assert "# The challenger is promoted" in pages["verdict"]
        assert "48 new images" in pages["drift"]
    finally:
        ended(worker, living)

    # A recipe that is worse, trained without a server: it is kept, and not promoted.
    draw_cells(tmp_path / "incoming", 26, 2)
    work_in_this_process(monkeypatch)
    host = DirectHost(Silent(), Settings())
    worse = retrain(
        host, data=incoming, recipe="demo", changes=[*SMALL, *UNTRAINED], delta=0.2, store=store.url
    )
    assert worse.name == "NotPromoted", worse.message
    now = current(store)
    assert now is not None
    assert now.run == second.run

    said = server.run("-m", "hemaflow", "champion", "rollback", "--store", store.url, "--json")
    assert json.loads(said)["run"] == first.run
    back = current(store)
    assert back is not None
    assert back.run == first.run
    shutil.rmtree(incoming)
