"""What a piece of code names: definitions, modules that it imports itself, and words."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cached_property

from hemaflow.infra.results.code.shape import code_sha256, is_docstring

PACKAGE = "hemaflow"

Name = tuple[str, str]
"""A name and the attribute that the code takes of it: `metrics.nll` is ("metrics", "nll"), `nll` ("nll", "").
"""
Target = tuple[str, str]
"""A module and a name in it, which is "" where the module itself is meant."""


class Code:
    """A piece of code that counts as a whole.

    Args:
        package: The package of the module that it is in, for relative imports.
        nodes: The code.
        bound: The values of names in it that a loop has bound.

    Attributes:
        names: The names that it uses, those that are local to it among them.
        imports: What of this package it imports itself, inside its functions.
        words: Its string literals, but for the defaults of a config: those with an effect are in the key.
    """

    def __init__(
        self, package: str, nodes: Sequence[ast.AST], bound: Mapping[str, object] | None = None
    ) -> None:
        self._package, self._nodes, self._bound = package, nodes, bound or {}
        self.names: set[Name] = set()
        self.imports: set[Target] = set()
        self.words: set[str] = set()
        for node in nodes:
            self._collect(node)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the code, in hexadecimal."""
        return code_sha256(self._nodes, self._bound)

    def _collect(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            self.names.add((node.id, ""))
            return
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            self.names.add((node.value.id, node.attr))
            return
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                self.words.add(node.value)
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imports.update(filter(is_ours, imported(node, self._package).values()))
            return
        if is_docstring(node):
            return
        if isinstance(node, ast.ClassDef) and any(ast.unparse(b).endswith("Config") for b in node.bases):
            fields = Code(self._package, [each for each in node.body if isinstance(each, ast.AnnAssign)])
            self.names |= fields.names
            others = [each for each in node.body if not isinstance(each, ast.AnnAssign)]
            for part in (*node.decorator_list, *node.bases, *node.keywords, *others):
                self._collect(part)
            return
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                self._collect(value)
            elif isinstance(value, list):
                for part in value:
                    if isinstance(part, ast.AST):
                        self._collect(part)


def is_ours(target: Target) -> bool:
    """Return whether a module is of this package."""
    return target[0].partition(".")[0] == PACKAGE


def imported(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, Target]:
    """Return the names that an import binds, each with what it stands for.

    Args:
        node: The import.
        package: The package of the module that it is in.
    """
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    parents = package.split(".")
    above = parents[: len(parents) - node.level + 1] if node.level else []
    module = ".".join([*above, *([node.module] if node.module else [])])
    return {alias.asname or alias.name: (module, alias.name) for alias in node.names}


def run_at_import(node: ast.AST) -> list[ast.AST]:
    """Return what runs where a statement is imported: not the bodies of functions, nor their annotations."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = [node]
    while waiting:
        part = waiting.pop()
        found.append(part)
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            defaults = [default for default in part.args.kw_defaults if default]
            waiting += [*part.decorator_list, *part.args.defaults, *defaults]
        elif isinstance(part, ast.Lambda):
            waiting += part.args.defaults
        elif not isinstance(part, ast.Constant | ast.Name):
            waiting += ast.iter_child_nodes(part)
    return found


def root_of(node: ast.AST) -> Name | None:
    """Return the name that an expression such as `a.b.c[0]` begins with, and the attribute taken of it."""
    attribute = ""
    while isinstance(node, ast.Attribute | ast.Subscript):
        attribute = node.attr if isinstance(node, ast.Attribute) else attribute
        node = node.value
    return (node.id, attribute) if isinstance(node, ast.Name) else None
