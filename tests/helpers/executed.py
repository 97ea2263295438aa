"""Which functions of hemaflow ran in a stage (`benchmarks/tracing/`), held against its fingerprint."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from helpers.commands import ROOT as CHECKOUT
from hemaflow.infra.results.fingerprint import MODULE_LEVEL, ROOT, TRANSPORT, Fingerprint

TRACING = CHECKOUT / "benchmarks" / "tracing"
"""The folder that, on PYTHONPATH, has a process trace itself."""
REGISTRY = "infra/registry.py"
CHOOSERS = ("opened",)
"""Methods of every kind of source that find the kind of a source: the kind that they find is in the key."""


class Executed(NamedTuple):
    """A function that ran."""

    stage: str
    """The stage whose job it ran in; empty outside of jobs."""
    file: str
    """Relative to the package."""
    line: int
    """Its first one."""
    name: str
    """Qualified: `Chain.__call__`."""
    caller: str
    """The file of the function that called it."""


def traced(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """Return an environment whose Python processes write down in a folder which functions run."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join([str(TRACING), environment.get("PYTHONPATH", str(CHECKOUT))])
    return {**environment, "PYTHONPATH": paths, "CODE_TRACE": str(folder)}


def read_trace(folder: Path) -> set[Executed]:
    """Return what ran in the jobs of all processes."""
    lines = [line for file in folder.glob("*.tsv") for line in file.read_text().splitlines()]
    fields = (line.split("\t") for line in lines)
    found = {Executed(stage, file, int(line), name, caller) for stage, file, line, name, caller in fields}
    return {executed for executed in found if executed.stage}


def unaccounted(executed: Iterable[Executed], code: Fingerprint) -> Iterator[str]:
    """Yield the functions that ran and are neither in a fingerprint nor in the declared transport."""
    for each in executed:
        if moves_bytes(each, code):
            continue
        if each.name.rpartition(".")[2] in CHOOSERS and each.file.startswith("tasks/sources/kinds/"):
            continue
        definition = "file" if not each.file.endswith(".py") else definition_of(each.file, each.line)
        if definition not in code.get(each.file, {}):
            yield f"{each.file}:{each.line} {each.name}"


def moves_bytes(executed: Executed, code: Fingerprint) -> bool:
    """Return whether a function ran for the declared transport, in a stage with that fingerprint.

    What transport alone calls in `infra/` (the name of a manifest) belongs to it. So does the registry of the
    kinds of store, where the key of a stage holds no registry.
    """
    if is_transport(executed.file) or (is_transport(executed.caller) and executed.file.startswith("infra/")):
        return True
    return executed.file == REGISTRY and REGISTRY not in code


def is_transport(file: str) -> bool:
    """Return whether a file is of the code that moves bytes, or of the flows, which say what runs where."""
    module = "hemaflow." + file.removesuffix(".py").replace("/", ".")
    return any(f"{module}.".startswith(f"{package}.") for package in (*TRANSPORT, "hemaflow.flows"))


def definition_of(file: str, line: int) -> str:
    """Return the definition of a module that a line is in."""
    return _definitions(file).get(line, MODULE_LEVEL)


@lru_cache(maxsize=256)
def _definitions(file: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for statement in ast.parse((ROOT / file).read_text()).body:
        lines = range(first_line(statement), (statement.end_lineno or statement.lineno) + 1)
        found |= dict.fromkeys(lines, _name(statement))
    return found


def first_line(node: ast.stmt) -> int:
    """Return the first line of a statement, with its decorators: where Python says that its code begins."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def _name(statement: ast.stmt) -> str:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return targets[0].id if isinstance(targets[0], ast.Name) else MODULE_LEVEL
