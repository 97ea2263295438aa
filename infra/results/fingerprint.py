"""What a stage key is made of: the code that a stage can reach, and the libraries that shape its bytes.

The fingerprint of a stage's code covers its module and every module of this repository that it imports,
directly or not, inside functions too. Comments, docstrings and formatting do not count; imports that only
type checkers see do not count. A file that only a string names (a template, a module that is copied into a
submission) is part of the code where a module declares it in its constant `CODE_FILES`: paths relative to the
module's folder, the whole text of each. Modules that are found rather than imported (`infra/registry.py`) are
part of the code where a module declares their package in `CODE_PACKAGES`.
"""

from __future__ import annotations

import ast
import hashlib
import posixpath
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import hemaflow.infra
from hemaflow.infra.errors import StageError
from hemaflow.infra.results.keras_backend import keras_backend

ROOT = Path(hemaflow.infra.__file__).parent.parent
"""The folder of the package `hemaflow`."""
PACKAGE = "hemaflow"
PARTS = ("flows", "tasks", "infra")
"""The sub-packages that hold code. `hemaflow/__init__.py` only names what they define."""
CODE_FILES = "CODE_FILES"
"""The constant in which a module declares files that count as its code."""
CODE_PACKAGES = "CODE_PACKAGES"
"""The constant in which a module declares packages whose modules it imports by name."""
Fingerprint = dict[str, dict[str, str]]
"""File, relative to the package → definition → SHA-256 of its code. A template's definition is `file`."""

MODULE_LEVEL = "module level"


def code_fingerprint(module: str, root: Path = ROOT) -> Fingerprint:
    """Return the fingerprint of the import closure of `module` (`hemaflow.tasks.train.stage`).

    Args:
        module: The module.
        root: The folder of the package `hemaflow`.

    Raises:
        StageError: A file that a module declares in CODE_FILES is missing.
    """
    fingerprint: Fingerprint = {}
    files: Fingerprint = {}
    waiting = [module]
    while waiting:
        path = _file_of(waiting.pop(), root)
        if path is None:
            continue
        name = path.relative_to(root).as_posix()
        if name in fingerprint:
            continue
        definitions, imported, declared, packages = _read(path.read_text(encoding="utf-8"), name)
        fingerprint[name] = definitions
        waiting += imported
        waiting.append(".".join((PACKAGE, *path.relative_to(root).parts[:-1])))  # its package runs first
        waiting += [module for package in packages for module in _modules_of(package, root)]
        for file in declared:
            location = posixpath.normpath(f"{posixpath.dirname(name)}/{file}")
            files[location] = {"file": _file_sha256(root / location, declared_in=name)}
    names = sorted(fingerprint.keys() | files.keys())
    return {name: fingerprint.get(name, {}) | files.get(name, {}) for name in names}


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


def _file_of(module: str, root: Path) -> Path | None:
    """Return the file of a module of this package; None for anything else."""
    package, *parts = module.split(".")
    if package != PACKAGE or not parts or parts[0] not in PARTS:
        return None
    path = root.joinpath(*parts)
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _modules_of(package: str, root: Path) -> list[str]:
    """Return the modules of a package of ours, by name."""
    path = _file_of(package, root)
    return [f"{package}.{file.stem}" for file in sorted(path.parent.glob("*.py"))] if path else []


@lru_cache(maxsize=256)
def _read(source: str, name: str) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return a module's definitions with their hashes, its imports, and its declared files and packages."""
    tree = ast.parse(source)
    _strip_docstrings(tree)
    runtime = [statement for statement in tree.body if not _only_for_type_checkers(statement)]
    package = f"{PACKAGE}.{name}".removesuffix(".py").replace("/", ".").rpartition(".")[0]
    imported = tuple(dict.fromkeys(_imports(runtime, package)))
    files = tuple(file for statement in runtime for file in _declared(statement, CODE_FILES))
    packages = tuple(package for statement in runtime for package in _declared(statement, CODE_PACKAGES))
    definitions: dict[str, list[str]] = {}
    for statement in runtime:
        is_definition = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        owner = str(getattr(statement, "name", "")) if is_definition else MODULE_LEVEL
        definitions.setdefault(owner, []).append(repr(_shape(statement)))
    hashes = {
        owner: hashlib.sha256("\n".join(code).encode()).hexdigest() for owner, code in definitions.items()
    }
    return hashes, imported, files, packages


def _shape(part: object) -> object:
    """Return a syntax tree as nested tuples, the same under every Python: what is empty is left out.

    Unparsed text is not: from 3.12 on, f-strings are quoted otherwise. Nor is `ast.dump`: nodes have new
    fields in 3.12, and its text leaves out other ones in 3.13.
    """
    if isinstance(part, ast.JoinedStr):  # the first releases of 3.12 end format specs with an empty text
        return "JoinedStr", [_shape(each) for each in part.values if getattr(each, "value", None) != ""]
    if isinstance(part, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(part) if value not in (None, []))
        return type(part).__name__, *((name, _shape(value)) for name, value in fields)
    return [_shape(each) for each in part] if isinstance(part, list) else repr(part)


def _declared(statement: ast.stmt, constant: str) -> tuple[str, ...]:
    """Return what a statement such as `CODE_FILES = ("a", "b")` declares in that constant."""
    if not isinstance(statement, ast.Assign):
        return ()
    if not any(isinstance(target, ast.Name) and target.id == constant for target in statement.targets):
        return ()
    return tuple(ast.literal_eval(statement.value))


def _file_sha256(path: Path, declared_in: str) -> str:
    if not path.is_file():
        raise StageError(
            "A file that counts as code is missing.",
            expected=f"a file beside {declared_in}, which declares it in {CODE_FILES}",
            where=str(path),
            remedy="Install hemaflow again, or restore the file from git.",
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _strip_docstrings(tree: ast.Module) -> None:
    """Remove the docstrings of modules, classes, functions and attributes: strings that stand alone."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        kept = [
            statement
            for statement in body
            if not (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            )
        ]
        node.body = kept if kept or isinstance(node, ast.Module) else [ast.Pass()]  # type: ignore[attr-defined]


def _only_for_type_checkers(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")


def _imports(statements: list[ast.stmt], package: str) -> Iterator[str]:
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                parts = package.split(".")
                above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
                module = ".".join(part for part in (above, node.module or "") if part)
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
