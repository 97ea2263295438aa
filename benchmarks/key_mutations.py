"""Shows that keys miss no code: watches runs, then edits functions that ran, and looks at the keys.

    python benchmarks/key_mutations.py [--edits 200] [--seed 0] [--runs demo options …]

Runs every recipe on a few drawn cells, with the layers of its policy, the hand-built network and one epoch,
and one run with options that no recipe has. Every function of hemaflow that runs in a stage must be in the
stage's key or in the declared transport. Then edits are drawn at random among the functions that ran, one at
a time in a copy of the code: another constant, operator or order of arguments, a negated condition, a
statement left out. Each must change the key of the stage that the function ran in.

Prints a line for each run, one for each edit that no key shows, and both sums; returns 1 where something is
missed.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from small_runs import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from helpers.commands import run
from helpers.executed import Executed, first_line, moves_bytes, read_trace, traced, unaccounted
from helpers.served import draw_cells
from hemaflow.flows.config.recipes import RECIPES
from hemaflow.infra.results.fingerprint import Fingerprint, code_fingerprint, words
from hemaflow.infra.results.manifest import KeyInputs, load_manifest
from hemaflow.infra.store.local import LocalStore

LITTLE = [
    "--set", "train.backbone=cnn",
    "--set", "train.initial_weights=none",
    "--set", "train.fine_tuning.epochs=1",
    "--set", "train.fine_tuning.from_layer=0",
    "--set", "evaluate.robustness_images=8",
    "--set", "evaluate.batch_size=32",
]  # fmt: skip
OPTIONS = [
    "--set", "train.loss=focal",
    "--set", "train.class_weights=balanced",
    "--set", "train.ema_momentum=0.9",
    "--set", "train.schedule=plateau",
    "--set", "train.fine_tuning.epochs=3",
    "--set", "train.average_epochs=2",
    "--set", "evaluate.tta=search",
    "--set", "submit.calibrate=true",
]  # fmt: skip
NUM_CELLS = 6
"""Drawn cells of each class."""
MAX_DRAWS = 100
"""How often an edit is drawn for each that is wanted, before there are held to be too few."""
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
Edit = tuple[str, Callable[[], None]]
"""What an edit does, in words, and the function that does it to the tree."""
NOTHING: Edit = ("", lambda: None)


class Watched(NamedTuple):
    """A function that ran, and the key of the stage that it ran in."""

    executed: Executed
    inputs: KeyInputs


def edits(function: ast.AST) -> Iterator[Edit]:
    """Yield the edits of a function: each changes what it does. What only raises errors is left alone."""
    waiting = [function]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise):
            continue
        yield from _edits_of(node)
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list"):
                parts = value if isinstance(value, list) else [value]
                waiting += [part for part in parts if isinstance(part, ast.AST) and not _is_text(part)]


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _edits_of(node: ast.AST) -> Iterator[Edit]:
    line = getattr(node, "lineno", 0)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        value = node.value
        other = not value if isinstance(value, bool) else f"{value}x" if isinstance(value, str) else value + 1
        yield f"line {line}: {value!r} → {other!r}", lambda: setattr(node, "value", other)
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        operator = OPERATORS[type(node.op)]
        yield f"line {line}: operator → {operator.__name__}", lambda: setattr(node, "op", operator())
    if isinstance(node, ast.Compare):
        comparison = OPERATORS[type(node.ops[0])]
        rest = node.ops[1:]
        yield f"line {line}: → {comparison.__name__}", lambda: setattr(node, "ops", [comparison(), *rest])
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        test = node.test
        yield f"line {line}: condition negated", lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), test))
    # `f(x, x)` is the same either way.
    if isinstance(node, ast.Call) and [*map(ast.dump, node.args)] != [*map(ast.dump, node.args[::-1])]:
        yield f"line {line}: arguments reversed", lambda: node.args.reverse()
    if isinstance(node, ast.Return) and node.value and not _is_none(node.value):
        yield f"line {line}: returns nothing", lambda: setattr(node, "value", None)
    body = getattr(node, "body", None)
    if isinstance(body, list) and len(body) > 1:
        for place, statement in enumerate(body):
            if not _is_text(statement) and not isinstance(statement, ast.Raise):
                yield f"line {statement.lineno}: left out", lambda place=place: body.pop(place)  # type: ignore[misc]


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def missed(watched: Sequence[Watched], num_edits: int, seed: int, folder: Path) -> list[str]:
    """Draw edits of functions that ran; return those that do not change the key of their stage.

    Args:
        watched: Functions that ran in stages.
        num_edits: Number of edits.
        seed: Random seed of the draw.
        folder: Where the code is copied to.
    """
    root = folder / "code"
    for part in ("tasks", "infra"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    drawn = random.Random(seed)  # noqa: S311 (a draw, no secret)
    files = {each.executed.file: (root / each.executed.file).read_text() for each in watched}
    not_shown, done = [], set[tuple[str, str]]()
    for _ in range(MAX_DRAWS * num_edits):
        if len(done) == num_edits:
            return not_shown
        executed, inputs = drawn.choice(watched)
        tree = ast.parse(files[executed.file])
        function = _function(tree, executed.line)
        what, apply = drawn.choice([NOTHING, *(edits(function) if function else ())])
        if not what or (executed.file, what) in done:
            continue
        done.add((executed.file, what))
        apply()
        path = root / executed.file
        path.write_text(ast.unparse(ast.fix_missing_locations(tree)))
        names = words(inputs.config).union(inputs.names)
        if code_fingerprint(f"hemaflow.tasks.{inputs.stage}.stage", names, root) == inputs.code:
            not_shown.append(f"{inputs.stage}: {executed.file} {executed.name}, {what}")
        path.write_text(files[executed.file])
    raise SystemExit(f"Only {len(done)} edits were found of {num_edits}.")


def _function(tree: ast.Module, line: int) -> ast.AST | None:
    """Return the function that begins at a line; None where what ran there is no function with a name."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return next((node for node in functions if first_line(node) == line), None)


def worth_editing(executed: Executed, code: Fingerprint) -> bool:
    """Return whether a function makes a result: transport and what it calls does not."""
    return (
        not moves_bytes(executed, code)
        and executed.file.endswith(".py")
        and not executed.name.endswith("opened")
    )


def watch(folder: Path, name: str, *changes: str) -> tuple[list[Watched], list[str]]:
    """Carry out a run; return the functions that ran, and those that no key holds."""
    environment = traced({**os.environ, "PYTHONPATH": str(ROOT)}, folder / name)
    store = LocalStore(folder / f"store-{name}")
    done = run(environment, store, "--data", str(folder / "cells"), *changes)
    if done.code:
        raise SystemExit(done.err)
    keys = {stage["stage"]: stage["key"] for stage in done.document["stages"]}
    loaded = {stage: load_manifest(store, stage, key) for stage, key in keys.items()}
    inputs = {stage: found[0].inputs for stage, found in loaded.items() if found}
    executed = sorted(read_trace(folder / name))
    outside = [
        f"{stage}: {function}"
        for stage, own in inputs.items()
        for function in unaccounted((each for each in executed if each.stage == stage), own.code)
    ]
    return [
        Watched(each, inputs[each.stage]) for each in executed if worth_editing(each, inputs[each.stage].code)
    ], outside


def main() -> int:
    """Watch the runs, edit what ran, and print what was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", nargs="+", choices=[*RECIPES, "options"], default=[*RECIPES, "options"])
    arguments = parser.parse_args()
    watched: list[Watched] = []
    num_outside = 0
    with tempfile.TemporaryDirectory(prefix="hemaflow-keys-") as temporary:
        folder = Path(temporary)
        (folder / "cells").mkdir()
        draw_cells(folder / "cells", 0, NUM_CELLS)
        for name in arguments.runs:
            recipe, more = ("demo", OPTIONS) if name == "options" else (name, [])
            found, outside = watch(folder, name, "--recipe", recipe, *LITTLE, *more)
            watched += found
            num_outside += len(outside)
            functions = {(each.executed.stage, each.executed.file, each.executed.line) for each in found}
            print(
                f"{name:<14} {len(functions):>4} functions ran, {len(outside)} in no key",
                *outside,
                sep="\n  ",
            )
        not_shown = missed(watched, arguments.edits, arguments.seed, folder)
        print(
            f"{arguments.edits - len(not_shown)} of {arguments.edits} edits change the key",
            *not_shown,
            sep="\n  ",
        )
    return 1 if not_shown or num_outside else 0


if __name__ == "__main__":
    sys.exit(main())
