"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from helpers.shared import shared_stack
from hemaflow.infra.deploy.stack import BUCKET, free_ports
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import open_store

pytest_plugins = ["helpers.lanes", "helpers.networks"]

SHARED = Path(__file__).resolve().parents[2] / "shared"

settings.register_profile("default", deadline=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def _stat_cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the files of the tests out of the user's own cache of checksums."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HEMAFLOW_STAT_CACHE_DIR", str(tmp_path_factory.mktemp("stat_cache")))
        yield


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """An empty store in a local folder."""
    return LocalStore(tmp_path / "store")


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables by which a real S3 server is found, which all processes of the tests share."""
    with shared_stack(tmp_path_factory, "s3", lambda stack: stack.start_s3(free_ports(1)[0])) as stack:
        environment = stack.environment()
        del environment["HEMAFLOW_STORE"]
        yield {**environment, "HEMAFLOW_STAGING_DIR": str(tmp_path_factory.mktemp("staging"))}


@pytest.fixture
def s3_url(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store in S3; the environment leads to its server."""
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def any_store(request: pytest.FixtureRequest) -> Store:
    """An empty store of each kind."""
    if request.param == "local":
        found: Store = request.getfixturevalue("store")
        return found
    return open_store(request.getfixturevalue("s3_url"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the real cells and weights, where there is one beside the checkout."""
    if not (SHARED / "data" / "pbc96_train.zip").is_file():
        pytest.skip(f"REAL CELLS ABSENT: {SHARED}/data/pbc96_train.zip is not there, this test did not run")
    return SHARED
