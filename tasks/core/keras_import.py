"""Loads Keras without the optional packages that it and TensorFlow import where they are installed.

TensorFlow Lite imports JAX; Keras imports scikit-learn, pandas and matplotlib, for converters, wrappers,
tables and galleries that nothing here uses. With all four installed, on one shared x86-64 core, loading takes
6.1 seconds and 575 MB instead of 11.0 and 818.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from hemaflow.infra.results.keras_backend import keras_backend

LOOKED_FOR = ("jax", "matplotlib", "pandas", "sklearn")


def load_keras() -> ModuleType:
    """Import Keras and its backend, and return it. The hidden packages can be imported afterwards."""
    needed = keras_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else TensorFlow's C++ code reports what it looks for
    with _hidden([name for name in LOOKED_FOR if name != needed]):
        import keras
    module: ModuleType = keras
    return module


def reset_keras() -> None:
    """Reset what a fresh process would have: layer names counted from 0, float32.

    Does nothing where Keras is not loaded.
    """
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.clear_session()
        keras.config.set_dtype_policy("float32")


@contextmanager
def _hidden(names: list[str]) -> Iterator[None]:
    """Temporarily hides optional packages from import."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # how the import system marks a package as missing
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
