"""Jobs done in the process of the tests, which has loaded all that a worker of its own would have to load."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hemaflow.flows.engine import worker_process
from hemaflow.flows.engine.worker_process import Job, Log, discard
from hemaflow.infra.results.draft import Progress, silent
from hemaflow.infra.results.manifest import Manifest, StoredObject


def work_in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have all workers do their jobs here; return the list that their stages will be in."""
    done = list[str]()

    class Worker:
        def __init__(self, environment: Mapping[str, str] | None = None) -> None:
            pass

        def preload(self, *functions: str) -> None:
            pass

        def do(
            self, job: Job, timeout_seconds: float, progress: Progress = silent, log: Log = discard
        ) -> Manifest | StoredObject:
            done.append(job.inputs.stage)
            return job.run(progress)

        def stop(self) -> None:
            pass

    monkeypatch.setattr(worker_process, "Worker", Worker)
    return done
