"""The wheel: one name at the top, with all that a checkout has, and nothing of a user's in its way."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.commands import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a source archive as an installer would build it."""
    folder = tmp_path_factory.mktemp("dist")
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("UV ABSENT: no wheel was built, this test did not run")
    command = [uv, "build", "--no-build-isolation", "--out-dir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    [found] = folder.glob("*.whl")
    return found


def test_its_only_name_at_the_top_is_hemaflow_and_no_file_of_the_code_is_left_out(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"hemaflow"}
    code = {
        path.relative_to(ROOT).as_posix()
        for folder in ("flows", "tasks", "infra")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".j2")
    }
    assert len(code) > 150
    assert {f"hemaflow/{name}" for name in code} <= names
    assert "hemaflow/py.typed" in names


def test_it_works_in_a_folder_that_has_modules_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    user = tmp_path / "user"
    (user / "flows").mkdir(parents=True)
    for name in ("tasks.py", "infra.py", "flows/__init__.py"):
        (user / name).write_text("raise RuntimeError('a module of the user')\n")
    code = (
        "import hemaflow; print(hemaflow.__file__)\n"
        "print([decision.state for decision in hemaflow.plan('sample', store='store')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=user,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    place, states = done.stdout.splitlines()
    assert Path(place).is_relative_to(tmp_path / "site")
    assert states == str(["run"] * 6)
