"""One module as the fingerprint sees it: definitions, statements that run at its import, declarations."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from hemaflow.infra.results.code.names import (
    PACKAGE,
    Code,
    Name,
    Target,
    imported,
    is_ours,
    root_of,
    run_at_import,
)
from hemaflow.infra.results.code.shape import parse

CODE_FILES = "CODE_FILES"
"""The constant in which a module declares files that count as its code."""
CODE_PACKAGES = "CODE_PACKAGES"
"""The constant in which a module declares packages whose modules it imports by name."""
CODE_TABLES = "CODE_TABLES"
"""The constant in which a module declares tables whose rows count only where they are named."""
MODULE_LEVEL = "module level"

HARMLESS = frozenset(
    "AliasChoices ConfigDict Counter Field MappingProxyType NewType ParamSpec Path SettingsConfigDict "
    "TypeAdapter TypeVar abstractmethod bool cache cached_property chr classmethod contextmanager "
    "dataclass defaultdict dict enumerate field field_validator float frozenset get_args int len list "
    "logging.getLogger lru_cache map max min model_validator np.array overload property range re.compile "
    "replace set sorted staticmethod str tuple zip".split()
)
"""Functions of Python and of libraries that a module may call at its import without a lasting effect.

A statement that calls any other one counts wherever its module is imported.
"""
CHANGEABLE = frozenset(("Counter", "defaultdict", "dict", "list", "set"))
"""Those of them whose result can be changed."""
_DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_BLOCK = ast.If | ast.Try | ast.With | ast.For | ast.While


@dataclass(frozen=True)
class Statement:
    """A statement that runs at the import of its module.

    Attributes:
        owner: The definition that it makes; "" where it makes none.
        code: Its code.
        calls: What it calls, and the attributes that it assigns, by name.
        named: What it names while it runs.
        is_unknown: Whether it may do what cannot be followed.
        is_bare: Whether it makes nothing: it is there for its effect.
        rows: The rows that it adds to tables: what adds each, by name, and the name of the row. `calls` and
            `named` are without what adds them.
    """

    owner: str
    code: Code
    calls: tuple[Name, ...] = ()
    named: frozenset[Name] = frozenset()
    is_unknown: bool = False
    is_bare: bool = False
    rows: tuple[tuple[Name, str], ...] = ()


class Module:
    """A module.

    Args:
        source: Its text.
        name: Its dotted name.
        is_package: Whether it is the `__init__` of a package.

    Attributes:
        definitions: Functions, classes and variables of the module, by name.
        functions: The names of its functions.
        bindings: The names that imports at module level bind.
        imports: What it imports of this package.
        statements: What else runs at its import, and has an effect that is not only a new name.
        variables: The names of its variables that can be changed: lists, dictionaries, registries.
        declared: Constants that declare what names do not say: name → values.
    """

    def __init__(self, source: str, name: str, is_package: bool) -> None:
        self.name, self.is_package = name, is_package
        self._package = name if is_package else name.rpartition(".")[0]
        self._nodes: dict[str, list[ast.stmt]] = {}
        self.bindings: dict[str, Target] = {}
        self.imports: list[Target] = []
        self.statements: list[Statement] = []
        self.functions: list[str] = []
        self.variables: set[str] = set()
        self.declared: dict[str, tuple[str, ...]] = {}
        body = parse(source)
        for statement in body:
            self._read(statement)
        self.definitions = {name: Code(self._package, nodes) for name, nodes in self._nodes.items()}
        self._read_unused_imports(body)

    def rows(self, variable: str) -> tuple[Code, dict[str, Code]]:
        """Return the code of a table that is written as a dictionary: all but its rows, and its rows.

        A table of another form has no rows here: they are statements.
        """
        nodes = self._nodes[variable]
        value = getattr(nodes[0], "value", None)
        if len(nodes) != 1 or not isinstance(value, ast.Dict):
            return self.definitions[variable], {}
        rows, rest = dict[str, Code](), list[ast.AST]()
        for key, row in zip(value.keys, value.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                rows[key.value] = Code(self._package, [row])
            else:
                rest += [*([key] if key else []), row]
        return Code(self._package, rest), rows

    def _read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._read_import(statement)
        elif isinstance(statement, _DEFINITION):
            self._nodes.setdefault(statement.name, []).append(statement)
            self.functions += [] if isinstance(statement, ast.ClassDef) else [statement.name]
            self._note(statement, statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            self._read_assignment(statement)
        elif isinstance(statement, ast.For) and (rounds := _rounds(statement)):
            for bound in rounds:
                for part in statement.body:
                    self._note(part, "", bound)
        elif isinstance(statement, _BLOCK):
            self._read_block(statement)
        else:
            self._note(statement, "")

    def _read_import(self, statement: ast.Import | ast.ImportFrom) -> None:
        bound = imported(statement, self._package)
        self.bindings |= bound
        self.imports += filter(is_ours, bound.values())

    def _read_unused_imports(self, body: list[ast.stmt]) -> None:
        """Count the imports of libraries that the module does not name: they are there for their effect."""
        codes = [*self.definitions.values(), *(statement.code for statement in self.statements)]
        used = {name for code in codes for name, _ in code.names}
        for statement in body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                names = imported(statement, self._package)
                tops = {module.partition(".")[0] for module, _ in names.values()}
                has_no_effect = tops <= {PACKAGE, *sys.stdlib_module_names}
                if not has_no_effect and not used & {name.partition(".")[0] for name in names}:
                    code = Code(self._package, [statement])
                    self.statements.append(Statement("", code, is_unknown=True))

    def _read_assignment(self, statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        flat = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.expr)]
        names = [part.id for part in flat if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
        for name in names:
            self._nodes.setdefault(name, []).append(statement)
        if statement.value and _can_change(statement.value):
            self.variables.update(names)
        changes = [
            root
            for part in flat
            if isinstance(part, ast.Attribute | ast.Subscript)
            if (root := root_of(part))
        ]
        self._note(statement, names[0] if len(names) == 1 else "", changes=tuple(changes))
        if names and names[0] in (CODE_FILES, CODE_PACKAGES, CODE_TABLES) and statement.value:
            self.declared[names[0]] = tuple(ast.literal_eval(statement.value))

    def _read_block(self, statement: ast.stmt) -> None:
        """Read a statement that holds others: it counts, and all that it defines is the statement."""
        for node in run_at_import(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._read_import(node)
            elif isinstance(node, _DEFINITION):
                self._nodes.setdefault(node.name, []).append(statement)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self._nodes.setdefault(node.id, []).append(statement)
                self.variables.add(node.id)
        self.statements.append(Statement("", Code(self._package, [statement]), is_unknown=True))

    def _note(
        self,
        statement: ast.stmt,
        owner: str,
        bound: Mapping[str, object] | None = None,
        changes: tuple[Name, ...] = (),
    ) -> None:
        """Keep a statement for what it does beside giving its value a name, where it may do something."""
        adding = dict(_rows(statement, bound or {}))
        added = {id(node) for call in adding for node in ast.walk(call.func)}
        running = [node for node in run_at_import(statement) if id(node) not in added]
        called = [each for each in _called(running) if id(each) not in added]
        makes_nothing = not owner and not isinstance(statement, ast.Assign | ast.AnnAssign | ast.Pass)
        if not called and not changes and not adding and not makes_nothing:
            return
        roots = [(node, root_of(node)) for node in called]
        # What a call returns may be called, and a method of a literal.
        is_unknown = any(root is None and not _is_harmless(node) for node, root in roots)
        free = [root for _, root in roots if root and root[0] not in (bound or {})]
        names = (node for node in running if isinstance(node, ast.Name | ast.Attribute))
        self.statements.append(
            Statement(
                owner=owner,
                code=Code(self._package, [statement], bound),
                calls=tuple(dict.fromkeys([*free, *changes])),
                named=frozenset(root for node in names if (root := root_of(node))),
                is_unknown=is_unknown,
                is_bare=makes_nothing,
                rows=tuple((root, key) for call, key in adding.items() if (root := root_of(call.func))),
            )
        )


@lru_cache(maxsize=512)
def read_module(source: str, name: str, is_package: bool) -> Module:
    """Return a module, analysed once for each text that it has."""
    return Module(source, name, is_package)


def _called(running: list[ast.AST]) -> Iterator[ast.expr]:
    """Yield what code calls that runs at an import."""
    for node in running:
        if isinstance(node, ast.Call):
            yield node.func
        if isinstance(node, _DEFINITION):
            yield from (part for part in node.decorator_list if not isinstance(part, ast.Call))


def _can_change(value: ast.expr) -> bool:
    """Return whether the value of a variable may be changed in place."""
    if isinstance(value, ast.Tuple):
        return any(map(_can_change, value.elts))
    if isinstance(value, ast.Call):
        root = root_of(value.func)
        return root is None or root[0] in CHANGEABLE or not {root[0], ".".join(root)} & HARMLESS
    return not isinstance(value, ast.Constant | ast.Subscript | ast.BinOp | ast.UnaryOp | ast.JoinedStr)


def _is_harmless(called: ast.expr) -> bool:
    """Return whether what is called is the result of a call, or a method of a literal."""
    while isinstance(called, ast.Attribute):
        called = called.value
    return isinstance(called, ast.Call | ast.Constant | ast.JoinedStr)


def _rows(statement: ast.stmt, bound: Mapping[str, object]) -> Iterator[tuple[ast.Call, str]]:
    """Yield the calls `TABLE.register(row)` and `@add(row, …)` of a statement, and the rows' names."""
    for call in (*getattr(statement, "decorator_list", []), getattr(statement, "value", None)):
        while isinstance(call, ast.Call) and isinstance(call.func, ast.Call):
            call = call.func
        if isinstance(call, ast.Call) and call.args and root_of(call.func):
            if key := _text(call.args[0], bound):
                yield call, key


def _text(node: ast.expr, bound: Mapping[str, object]) -> str:
    """Return the text that an expression of literals and bound names gives, or ""."""
    allowed = (ast.Constant, ast.JoinedStr, ast.FormattedValue, ast.Name, ast.Attribute, ast.Call, ast.Load)
    if not all(isinstance(part, allowed) for part in ast.walk(node)):
        return ""
    try:
        value = eval(compile(ast.Expression(node), PACKAGE, "eval"), {"__builtins__": {}}, dict(bound))  # noqa: S307
    except Exception:
        return ""
    return value if isinstance(value, str) else ""


def _rounds(loop: ast.For) -> list[dict[str, object]]:
    """Return what each round of a loop over literals binds; nothing for a loop that does more than calls."""
    if loop.orelse or not all(isinstance(part, ast.Expr) for part in loop.body):
        return []
    names = [node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)]
    try:
        items = ast.literal_eval(loop.iter)
    except ValueError:
        return []
    rows = [item if isinstance(loop.target, ast.Tuple) else (item,) for item in items]
    return [dict(zip(names, row, strict=True)) for row in rows]
