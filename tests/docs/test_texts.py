"""What README and docs tell a reader to type exists: commands, options, names of the API, files."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

import hemaflow
from helpers.commands import ROOT
from hemaflow.flows.cli.main import app

TEXTS = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(hemaflow [^`]+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
FILE = re.compile(r"`((?:flows|tasks|infra|tests|benchmarks|docs)/[\w./-]+\.(?:py|md|yaml|json|ipynb))`")
KNOWN = {*hemaflow.__all__, "__version__", "flows", "tasks", "infra"}
MADE = {"notebook.md", "reference/cli.md", "reference/fields.md", "reference/lists.md"}
"""Pages of the site that are made by docs/hooks.py."""
COMMAND = re.compile(r"(?:^|&& |\$\(|bin/)hemaflow ([^&|;>)#\n]*)", re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(text) if found == language]


def commands(text: str) -> list[list[str]]:
    """Every command line of hemaflow in a text, as words."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    lines += INLINE.findall(FENCE.sub("", text))
    return [shlex.split(rest) for line in lines for rest in COMMAND.findall(line)]


@pytest.mark.parametrize("name", TEXTS)
def test_commands_and_options_exist(name: str) -> None:
    group = typer.main.get_command(app)
    for words in commands((ROOT / name).read_text(encoding="utf-8")):
        command = group
        for word in words:
            if word in getattr(command, "commands", {}):
                command = command.commands[word]  # type: ignore[attr-defined]
        known = {option for part in command.params for option in part.opts} | {"--help", "--version"}
        named = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert set(named) <= known, f"{name}: hemaflow {shlex.join(words)}"
        if words and not words[0].startswith("-"):
            assert command is not group, f"{name}: there is no command {words[0]!r}"


@pytest.mark.parametrize("name", TEXTS)
def test_python_can_be_read_and_its_names_exist(name: str) -> None:
    for code in blocks((ROOT / name).read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "hemaflow":
                assert node.attr in (*hemaflow.__all__, "flows", "tasks", "infra"), (
                    f"{name}: hemaflow.{node.attr}"
                )


@pytest.mark.parametrize("name", TEXTS)
def test_files_and_links_exist(name: str) -> None:
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        target = ((ROOT / name).parent / link).resolve()
        assert target.exists() or _is_made(target), f"{name}: {link}"
    for file in FILE.findall(text):
        assert (ROOT / file).exists(), f"{name}: {file}"


def test_the_map_of_the_house_names_every_folder() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for house in ("flows", "tasks", "infra"):
        [row] = re.findall(rf"^\| `{house}/` \|(.*)\|$", readme, re.MULTILINE)
        folders = {path.parent.name for path in (ROOT / house).glob("*/__init__.py")}
        assert {folder for folder in folders if f"`{folder}/`" not in row} == set(), house


def _is_made(page: Path) -> bool:
    docs = ROOT / "docs"
    return page.is_relative_to(docs) and page.relative_to(docs).as_posix() in MADE


def test_texts_and_their_commands_are_found() -> None:
    assert len(TEXTS) > 10
    found = [words for name in TEXTS for words in commands((ROOT / name).read_text(encoding="utf-8"))]
    assert len(found) > 40
