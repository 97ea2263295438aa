"""The pages on how to extend hemaflow: each is followed to the letter in a copy of the checkout.

A fenced block with a title is a file to write (python) or to change (diff: what to replace, and by what). The
tests that a page has its reader write are run there, with the lint and the import contracts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.commands import ROOT

pytestmark = pytest.mark.slow
PAGES = sorted(path.stem for path in (ROOT / "docs" / "extending").glob("*.md") if path.stem != "index")
BLOCK = re.compile(r'^```(python|diff) title="([^"]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| \[([\w ]+)\]\((\w+)\.md\) \|(.*)\|$", re.MULTILINE)


class Change(NamedTuple):
    """One file that a page has its reader write or change.

    Attributes:
        file: Where it is.
        text: All of it, or a diff without line numbers.
        is_new: Whether the page has all of it.
    """

    file: str
    text: str
    is_new: bool


def changes(page: str) -> list[Change]:
    text = (ROOT / "docs" / "extending" / f"{page}.md").read_text(encoding="utf-8")
    return [Change(file, code, language == "python") for language, file, code in BLOCK.findall(text)]


def hunks(diff: str) -> Iterator[tuple[str, str]]:
    """Yield what is to be replaced, and by what."""
    for removed, added in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", diff, re.MULTILINE):
        yield tuple("\n".join(line[1:] for line in lines.splitlines()) for lines in (removed, added))  # type: ignore[misc]


def copy_of_the_checkout(folder: Path) -> Path:
    """Return a folder with the code, the tests and the settings of the tools."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("hemaflow", "flows", "tasks", "infra", "tests"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def apply(change: Change, folder: Path) -> None:
    path = folder / change.file
    if change.is_new:
        assert not path.exists(), f"{change.file} exists already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(change.text, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    for old, new in hunks(change.text):
        assert text.count(old) == 1, f"{change.file} has {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def check(folder: Path, program: str, *arguments: str) -> None:
    """Call a program of this environment in a copy of the checkout; it must succeed."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "HEMAFLOW_"))
    }
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(folder), "PREFECT_HOME": str(folder / "prefect")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{program} {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"


def test_the_pages_are_right_to_the_letter(tmp_path: Path) -> None:
    folder = copy_of_the_checkout(tmp_path)
    files: list[str] = []
    for page in PAGES:
        for change in changes(page):
            apply(change, folder)
            files += [change.file] if change.file.endswith(".py") else []
        assert files[-1].startswith("tests/"), f"{page}.md does not end with a test"
    check(folder, "ruff", "check", *files)
    check(folder, "ruff", "format", "--check", *files)
    check(folder, "lint-imports")
    check(folder, "pytest", "-q", "-n", "0", *(file for file in files if file.startswith("tests/")))


def test_the_table_counts_the_files_of_each_page() -> None:
    table = (ROOT / "docs" / "extending" / "index.md").read_text(encoding="utf-8")
    counted = {page: [cell.strip() for cell in cells.split("|")] for _, page, cells in ROW.findall(table)}
    for page in PAGES:
        code = [change for change in changes(page) if not change.file.startswith("tests/")]
        new = [change for change in code if change.is_new and not change.file.endswith("__init__.py")]
        changed = {change.file for change in code if not change.is_new}
        assert counted[page][-1] == f"{len(new)} new, {len(changed)} changed", page
