"""Follows names from the entry points of a module through the definitions that they name."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from hemaflow.infra.errors import StageError
from hemaflow.infra.results.code.module import (
    CODE_FILES,
    CODE_PACKAGES,
    CODE_TABLES,
    HARMLESS,
    MODULE_LEVEL,
    Module,
    Statement,
    read_module,
)
from hemaflow.infra.results.code.names import PACKAGE, Code, Target, is_ours

PARTS = ("flows", "tasks", "infra")
"""The sub-packages that hold code. `hemaflow/__init__.py` only names what they define."""
TRANSPORT = (
    "hemaflow.infra.errors",
    "hemaflow.infra.settings",
    "hemaflow.infra.stat_cache",
    "hemaflow.infra.stat_database",
    "hemaflow.infra.store",
    "hemaflow.infra.results.code",
    "hemaflow.infra.results.draft",
    "hemaflow.infra.results.fingerprint",
)
"""Modules and packages that move bytes and do not make them: no key holds their code.

What they bring is held against a SHA-256 that is in a key or in a manifest.
"""
IMPORTS = "imports"
"""What the fingerprint calls the names that the imports of a module bind."""


class Reach:
    """The definitions that one module reaches.

    Args:
        root: The folder of the package `hemaflow`.
        names: The names of rows that the config gives; None where every row counts.

    Attributes:
        files: SHA-256 of each file that counts as code, by its path relative to `root`.
    """

    def __init__(self, root: Path, names: Collection[str] | None) -> None:
        self._root = root
        self._names = None if names is None else set[str]()
        self._add_names(names or ())
        self._modules: dict[str, Module | None] = {}
        self._reached: set[Target] = set()
        self._waiting: list[tuple[Module, Code]] = []
        self._rows: list[tuple[Module, str, str, Code]] = []
        self._tables: set[Target] = set()
        self._counted: set[Statement] = set()
        self._touched: dict[Statement, set[Target] | None] = {}
        self._hashes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self._bound: dict[str, set[str]] = defaultdict(set)
        self.files: dict[str, str] = {}

    def enter(self, name: str) -> None:
        """Follow the public functions of a module; all of it where it has none."""
        module = self._load(name)
        if module is None:
            return
        public = [name for name in module.functions if not name.startswith("_")]
        for entry in public or module.definitions:
            self._define(module, entry)
        while self._waiting:
            while self._waiting:
                self._follow(*self._waiting.pop())
            self._count_rows()
            self._count_statements()

    def definitions(self) -> dict[str, dict[str, str]]:
        """Return the SHA-256 of each definition that was reached, by file and name."""
        found = {
            self._file(name): {owner: _joined(hashes) for owner, hashes in sorted(owners.items())}
            for name, owners in self._hashes.items()
        }
        for name, bound in self._bound.items():
            found.setdefault(self._file(name), {})[IMPORTS] = _joined(sorted(bound))
        return found

    def _load(self, name: str) -> Module | None:
        """Return a module of ours that counts, with what its import runs; None for any other."""
        if name in self._modules:
            return self._modules[name]
        path = None if _is_within(name, TRANSPORT) else file_of(name, self._root)
        if path is None:
            self._modules[name] = None
            return None
        source = path.read_text(encoding="utf-8")
        module = self._modules[name] = read_module(source, name, path.name == "__init__.py")
        self._load(name.rpartition(".")[0])
        for table in module.declared.get(CODE_TABLES, ()):
            owner, _, variable = f"{name}.{table}".rpartition(".")
            self._tables.add((owner, variable))
        for package in module.declared.get(CODE_PACKAGES, ()):
            for each in modules_of(package, self._root):
                self._load(each)
        for owner, definition in module.imports:
            imported = self._load(owner)
            if imported and imported.is_package and definition:
                self._load(f"{owner}.{definition}")
        return module

    def _define(self, module: Module, name: str) -> None:
        """Count a definition, and wait to follow what it names."""
        if (module.name, name) in self._reached:
            return
        self._reached.add((module.name, name))
        self._count_files(module)
        code = module.definitions[name]
        if (module.name, name) in self._tables:
            code, rows = module.rows(name)
            self._rows += [(module, name, key, row) for key, row in rows.items()]
        self._count(module, name, code)

    def _count(self, module: Module, owner: str, code: Code) -> None:
        self._hashes[module.name][owner].append(code.sha256)
        self._waiting.append((module, code))

    def _follow(self, module: Module, code: Code) -> None:
        self._add_names(code.words)
        for name, attribute in code.names:
            self._use(module, name, attribute)
        for target in code.imports:
            self._reach(*target, "")
        for word in code.words:
            if word.startswith(f"{PACKAGE}."):
                self._reach_by_text(word)

    def _use(self, module: Module, name: str, attribute: str) -> None:
        """Follow a name that some code of a module uses; a row that is added to a table reads no table."""
        found = self._resolve(module, name, attribute)
        if attribute == "register" and found and found[1] in found[0].variables:
            return
        if name in module.definitions:
            self._define(module, name)
        elif name in module.bindings:
            target = module.bindings[name]
            self._bound[module.name].add(f"{name} = {'.'.join(filter(None, target))}")
            self._reach(*target, attribute)

    def _reach(self, name: str, definition: str, attribute: str) -> None:
        """Follow a definition of another module, or an attribute of that module."""
        if not is_ours((name, "")):
            return
        module = self._load(name)
        if module is None:
            return
        if definition and module.is_package and self._load(f"{name}.{definition}"):
            self._reach(f"{name}.{definition}", attribute, "")
            return
        if definition in module.definitions or definition in module.bindings:
            self._use(module, definition, attribute)
        else:  # the module as an object: whatever is done with it, all of it counts
            for each in module.definitions:
                self._define(module, each)

    def _reach_by_text(self, text: str) -> None:
        """Follow a string that is the name of a module of ours, or of a definition in one."""
        owner, _, definition = text.rpartition(".")
        if self._load(text):
            self._reach(text, "", "")
        elif (module := self._load(owner)) and definition in module.definitions:
            self._define(module, definition)

    def _resolve(self, module: Module, name: str, attribute: str) -> tuple[Module, str] | None:
        """Return where a definition of ours is, by its name in a module; None for anything else."""
        if name in module.definitions:
            return module, name
        target = module.bindings.get(name)
        if target is None or not is_ours(target):
            return None
        owner, definition = target
        found = self._load(owner)
        if definition and found and found.is_package and (part := self._load(f"{owner}.{definition}")):
            found, definition = part, attribute
        return self._resolve(found, definition, "") if found and definition else None

    def _count_rows(self) -> None:
        """Count the rows of tables written as dictionaries that are named."""
        left = []
        for row in self._rows:
            module, table, key, code = row
            if self._is_named(key):
                self._count(module, f"{table}[{key}]", code)
            else:
                left.append(row)
        self._rows = left

    def _count_statements(self) -> None:
        """Count the statements that may change what was reached."""
        for module in [module for module in self._modules.values() if module]:
            for statement in module.statements:
                if statement not in self._counted and self._counts(module, statement):
                    self._counted.add(statement)
                    if statement.owner:
                        self._define(module, statement.owner)
                    else:
                        self._count(module, self._label(statement), statement.code)

    def _label(self, statement: Statement) -> str:
        """Return what the fingerprint calls a statement: the row that it adds to a table, if it adds one."""
        tables = (self._touched[statement] or set()) & self._tables if statement.key else ()
        return next((f"{table}[{statement.key}]" for _, table in tables), MODULE_LEVEL)

    def _counts(self, module: Module, statement: Statement) -> bool:
        if statement not in self._touched:
            self._touched[statement] = self._touches(module, statement)
        touched = self._touched[statement]
        if touched is None:
            return True
        by_name = touched & self._tables if statement.key else set[Target]()
        if (touched - by_name) & self._reached:
            return True
        return bool(by_name & self._reached) and self._is_named(statement.key)

    def _touches(self, module: Module, statement: Statement) -> set[Target] | None:
        """Return the variables that a statement may change; None where that is not known."""
        if statement.is_unknown:
            return None
        named = [found for each in statement.named if (found := self._resolve(module, *each))]
        touched = {(owner.name, name) for owner, name in named if name in owner.variables}
        for name, attribute in statement.calls:
            found = self._resolve(module, name, attribute)
            if found:
                owner, definition = found
                touched |= {(owner.name, definition)} if attribute else set()
                touched |= self._variables(owner, definition)
            elif not self._is_harmless(module, name, attribute):
                return None
        return touched if touched or not statement.is_bare else None

    def _is_harmless(self, module: Module, name: str, attribute: str) -> bool:
        """Return whether a call of what is not of ours, or moves bytes only, changes nothing that lasts."""
        owner = module.bindings.get(name, ("", ""))[0]
        return _is_within(owner, TRANSPORT) or bool({name, f"{name}.{attribute}"} & HARMLESS)

    def _variables(self, module: Module, definition: str) -> set[Target]:
        """Return the variables that a definition names, directly or not."""
        seen, waiting = set[Target](), [(module, definition)]
        found = set[Target]()
        while waiting:
            owner, name = waiting.pop()
            if (owner.name, name) in seen:
                continue
            seen.add((owner.name, name))
            if name in owner.variables:
                found.add((owner.name, name))
            named = (self._resolve(owner, *each) for each in owner.definitions[name].names)
            waiting += [each for each in named if each]
        return found

    def _count_files(self, module: Module) -> None:
        """Count the files that a module declares."""
        name = self._file(module.name)
        for file in module.declared.get(CODE_FILES, ()):
            location = posixpath.normpath(f"{posixpath.dirname(name)}/{file}")
            self.files[location] = _file_sha256(self._root / location, declared_in=name)

    def _add_names(self, names: Collection[str]) -> None:
        """Add names of rows, each also without what follows a dash: `shift-x+3` names the row `shift`."""
        if self._names is not None:
            for name in names:
                self._names.add(name)
                self._names.update(name[: dash.start()] for dash in re.finditer("-", name))

    def _is_named(self, key: str) -> bool:
        return self._names is None or key in self._names

    def _file(self, name: str) -> str:
        path = file_of(name, self._root)
        return path.relative_to(self._root).as_posix() if path else name


def file_of(module: str, root: Path) -> Path | None:
    """Return the file of a module of this package; None for anything else."""
    package, *parts = module.split(".")
    if package != PACKAGE or not parts or parts[0] not in PARTS:
        return None
    path = root.joinpath(*parts)
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def modules_of(package: str, root: Path) -> Iterator[str]:
    """Yield the modules of a package of ours."""
    path = file_of(package, root)
    for file in sorted(path.parent.glob("*.py")) if path else ():
        yield f"{package}.{file.stem}"


def _is_within(module: str, packages: Collection[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _joined(hashes: list[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _file_sha256(path: Path, declared_in: str) -> str:
    if not path.is_file():
        raise StageError(
            "A file that counts as code is missing.",
            expected=f"a file beside {declared_in}, which declares it in {CODE_FILES}",
            where=str(path),
            remedy="Install hemaflow again, or restore the file from git.",
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()
