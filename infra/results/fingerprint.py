"""What a stage key is made of: the code that a stage can reach, and the libraries that shape its bytes.

The code of a stage is what its public functions name, directly or not: functions, classes with all their
methods, variables. `infra/results/code/` follows the names. Comments, docstrings and formatting do not count,
nor does what only type checkers see. These rules make it complete:

- A statement at module level counts where the module is imported and the statement may change what counts. It
  may change the variables that it names, and those that functions of ours name which it calls. A statement
  counts in any case if it calls what is not known to be without effect.
- A row of a table counts where the table does. If a module declares the table in its constant `CODE_TABLES`,
  a row counts only where its name is a word of the stage's config or a string in the code that counts.
- Where a module is used as an object, all of it counts. So does a module that only a string names.
- A file that only a string names (a template, a module that is copied into a submission) counts where a
  module declares it in `CODE_FILES`: paths relative to the module's folder, the whole text of each.
- Modules that are found rather than imported (`infra/registry.py`) are imported where a module declares their
  package in `CODE_PACKAGES`.
- What only moves bytes does not count: the modules of `TRANSPORT`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import hemaflow.infra
from hemaflow.infra.results.code.module import MODULE_LEVEL
from hemaflow.infra.results.code.reach import TRANSPORT, Reach
from hemaflow.infra.results.keras_backend import keras_backend

__all__ = [
    "MODULE_LEVEL",
    "ROOT",
    "TRANSPORT",
    "Fingerprint",
    "code_fingerprint",
    "library_versions",
    "words",
]

ROOT = Path(hemaflow.infra.__file__).parent.parent
"""The folder of the package `hemaflow`."""
Fingerprint = dict[str, dict[str, str]]
"""File, relative to the package → definition → SHA-256 of its code. A template's definition is `file`."""


def code_fingerprint(module: str, names: Collection[str] | None = None, root: Path = ROOT) -> Fingerprint:
    """Return the fingerprint of the code that a module reaches (`hemaflow.tasks.train.stage`).

    Args:
        module: The module.
        names: Names of rows of tables that the config gives (`words`); None where every row counts.
        root: The folder of the package `hemaflow`.

    Raises:
        StageError: A file that a module declares in CODE_FILES is missing.
    """
    reach = Reach(root, names)
    reach.enter(module)
    found = reach.definitions()
    for file, sha256 in reach.files.items():
        found.setdefault(file, {})["file"] = sha256
    return dict(sorted(found.items()))


def words(value: object) -> set[str]:
    """Return the words of a config, given as JSON values: all that it may name a row of a table by."""
    if isinstance(value, str):
        return set(re.split(r"[,\s]+", value))
    if isinstance(value, Mapping):
        return set().union(*map(words, value.values()))
    return set().union(*map(words, value)) if isinstance(value, list | tuple) else set()


def library_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each distribution, without importing it.

    Where Keras is among them, the backend that it computes with is too; not where keras-cv is, which computes
    with TensorFlow alone.

    Raises:
        ConfigError: The backend is not installed.
    """
    names = set(distributions)
    if "keras" in names and "keras-cv" not in names:
        names.add(keras_backend())
    return {name: version(name) for name in sorted(names)}
