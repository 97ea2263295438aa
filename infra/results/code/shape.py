"""Code as it counts: without comments, docstrings and formatting, the same under every Python."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping


def parse(source: str) -> list[ast.stmt]:
    """Return the statements of a module that run, without docstrings and what only type checkers see."""
    body = ast.parse(source).body
    return [each for each in body if not is_docstring(each) and not _only_for_type_checkers(each)]


def code_sha256(nodes: Iterable[ast.AST], bound: Mapping[str, object]) -> str:
    """Return the SHA-256 of some code.

    Args:
        nodes: The code.
        bound: The values of names in it that a loop has bound.
    """
    lines = [repr(_shape(node)) for node in nodes]
    lines += [repr(sorted(bound.items()))] if bound else []
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def is_docstring(node: object) -> bool:
    """Return whether a statement is a string that stands alone: of a module, class, function or attribute."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _shape(node: ast.AST) -> tuple[object, ...]:
    """Return a syntax tree as nested tuples, the same under every Python: what is empty is left out.

    Unparsed text is not: from 3.12 on, f-strings are quoted otherwise. Nor is `ast.dump`: nodes have new
    fields in 3.12, and its text leaves out other ones in 3.13.
    """
    if isinstance(node, ast.JoinedStr):  # the first releases of 3.12 end format specs with an empty text
        return "JoinedStr", [_shape(each) for each in node.values if getattr(each, "value", None) != ""]
    shape: list[object] = [type(node).__name__]
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            shape.append((name, _shape(value)))
        elif isinstance(value, list):
            parts = [each for each in value if not is_docstring(each)] if name == "body" else value
            if parts or value:
                shape.append((name, [_part(each) for each in parts or [ast.Pass()]]))
        elif value is not None:
            shape.append((name, repr(value)))
    return tuple(shape)


def _part(part: object) -> object:
    return _shape(part) if isinstance(part, ast.AST) else repr(part)


def _only_for_type_checkers(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")
