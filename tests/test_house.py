"""The floor plan: rooms that a stranger can overlook."""

from __future__ import annotations

import re

import pytest

from helpers.commands import ROOT

MAX_MODULES = 14
MODULES = [path for part in ("flows", "tasks", "infra") for path in (ROOT / part).rglob("*.py")]
FOLDERS = sorted({path.parent.relative_to(ROOT).as_posix() for path in MODULES})


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_has_more_modules_than_a_person_overlooks(folder: str) -> None:
    assert len(list((ROOT / folder).glob("*.py"))) <= MAX_MODULES


def test_few_lines_give_up_the_type() -> None:
    lines = [line for path in MODULES for line in path.read_text().splitlines()]
    assert len([line for line in lines if re.search(r"\bAny\b", line)]) < 60
