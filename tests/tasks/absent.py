"""Packages that a test has a process of its own do without."""

from __future__ import annotations

FINDER = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
# `sys.modules[name] = None` will not do: Keras looks there for whether TensorFlow is loaded.


def without_packages(*names: str) -> str:
    """Return code that, run first, has these packages not be found."""
    return FINDER.format(names=names)
