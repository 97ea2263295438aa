"""Keras without what it only looks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.absent import run_without

pytestmark = pytest.mark.slow

LOADING = """
import sys
from hemaflow.tasks.core.keras_import import LOOKED_FOR, load_keras
keras = load_keras()
print(keras.backend.backend(), *(name for name in LOOKED_FOR if name in sys.modules))
for name in LOOKED_FOR:
    __import__(name)
"""


@pytest.mark.parametrize(("backend", "loaded"), [("tensorflow", []), ("jax", ["jax"])])
def test_keras_is_loaded_without_what_it_only_looks_for(backend: str, loaded: list[str]) -> None:
    """Which can be loaded afterwards."""
    assert run_without("", LOADING, KERAS_BACKEND=backend).split() == [backend, *loaded]


def test_a_backend_that_is_chosen_in_a_file_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    said = run_without("", LOADING, KERAS_HOME=str(tmp_path), KERAS_BACKEND="")
    assert said.split() == ["jax", "jax"]
