from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from hemaflow.infra.settings import Settings, available_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_workers_are_as_many_as_the_cores_of_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEMAFLOW_WORKERS", raising=False)

    def on_one_core() -> tuple[int, int]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this thread alone
        return available_cores(), Settings().workers

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(on_one_core).result() == (1, 1)
    monkeypatch.setenv("HEMAFLOW_WORKERS", "7")
    assert Settings().workers == 7
