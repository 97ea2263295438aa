"""Fixtures of the tests that run the command whole."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.commands import ROOT, Done, Whole, run
from helpers.executed import traced
from helpers.results import Call
from helpers.served import Server, draw_cells
from helpers.shared import made_once, shared_stack
from hemaflow.flows.cli import main
from hemaflow.infra.deploy.stack import free_ports
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import open_store


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a user who has set up nothing. One process writes shards: each would load keras-cv."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "HEMAFLOW_"))
    }
    own = {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")), "PYTHONPATH": str(ROOT)}
    cache = os.environ["HEMAFLOW_STAT_CACHE_DIR"]
    return {**kept, **own, "HEMAFLOW_STAT_CACHE_DIR": cache, "HEMAFLOW_WORKERS": "1"}


@pytest.fixture(scope="session")
def served(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment with a Prefect server that all processes of the tests share."""
    with shared_stack(
        tmp_path_factory, "prefect", lambda stack: stack.start_prefect(free_ports(1)[0])
    ) as stack:
        yield environment | stack.environment()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Both servers, with the deployments of this checkout."""
    made = Server(tmp_path_factory.mktemp("served"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of twenty drawn cells of each class."""
    return str(made_once(tmp_path_factory, "cells", lambda folder: draw_cells(folder, 0, 20)))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], cells: str) -> Whole:
    """An undisturbed run of the command over the cells, and its store, which may be added to.

    Beside the store, the folder `trace` says which functions of hemaflow ran in it.
    """

    def make(folder: Path) -> None:
        watched = traced(environment, folder / "trace")
        done = run(watched, LocalStore(folder / "store"), "--data", cells)
        (folder / "done.json").write_text(json.dumps(done))

    folder = made_once(tmp_path_factory, "whole", make)
    return Whole(LocalStore(folder / "store"), Done(*json.loads((folder / "done.json").read_text())))


@pytest.fixture
def s3_variables(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables by which this process finds the S3 server."""
    for name, value in server.environment.items():
        if name.startswith(("AWS_", "HEMAFLOW_STAGING")):
            monkeypatch.setenv(name, value)


@pytest.fixture
def served_store(s3_variables: None, request: pytest.FixtureRequest) -> Store:
    """A store of the test's own in the S3 server."""
    return open_store(f"s3://hemaflow/{re.sub('[^a-z0-9]+', '-', request.node.name)}")


@pytest.fixture
def hemaflow(store: LocalStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command, in this process, over the local store."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hemaflow", *arguments, "--store", store.url])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call
