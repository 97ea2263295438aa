"""Packages that a test has a process of its own do without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPILED_SOON = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"}
"""Variables with which JAX compiles sooner, to slower code: tests take a few steps."""

FINDER = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
# `sys.modules[name] = None` will not do: Keras looks there for whether TensorFlow is loaded.


def without_packages(absent: str) -> str:
    """Return code that, run first, has such packages not be found; spaces between their names."""
    return FINDER.format(names=tuple(absent.split()))


def run_without(absent: str, code: str, *arguments: object, **variables: str) -> str:
    """What code prints in a process that finds no such packages."""
    done = subprocess.run(
        [sys.executable, "-c", without_packages(absent) + code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **COMPILED_SOON, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
