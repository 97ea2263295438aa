"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from infra.store import LocalStore

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """An empty store in a local folder."""
    return LocalStore(tmp_path / "store")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the real cells and weights, where there is one beside the checkout."""
    if not (SHARED / "data" / "pbc96_train.zip").is_file():
        pytest.skip(f"REAL CELLS ABSENT: {SHARED}/data/pbc96_train.zip is not there, this test did not run")
    return SHARED
