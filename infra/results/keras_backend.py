"""Finds the backend that Keras will use, without importing Keras."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

from hemaflow.infra.errors import ConfigError

BACKENDS = ("tensorflow", "jax", "torch")
"""The backends that hemaflow can train with."""
DEFAULT = "tensorflow"
"""The backend if none is configured. It is installed with hemaflow, except where JAX is used alone."""


def chosen_backend() -> str:
    """Return the configured backend, found as keras/src/backend/config.py finds it."""
    if name := os.environ.get("KERAS_BACKEND", ""):
        return name
    try:
        return str(json.loads(_config_file().read_text(encoding="utf-8"))["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT


def keras_backend() -> str:
    """Return the distribution of the backend that Keras will use.

    Raises:
        ConfigError: Keras does not know the backend, or it is not installed.
    """
    name = chosen_backend()
    if name == DEFAULT or (name in BACKENDS and find_spec(name)):
        return name
    raise ConfigError(
        "Keras cannot compute with the backend that it is told to use.",
        expected=f"one of {', '.join(BACKENDS)}, installed",
        received=name,
        where="KERAS_BACKEND" if os.environ.get("KERAS_BACKEND") else str(_config_file()),
        remedy="Install that package, or unset it to compute with TensorFlow.",
    )


def _config_file() -> Path:
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
