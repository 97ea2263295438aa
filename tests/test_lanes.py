"""The fast lane: a test of it that starts a process, opens a port or loads TensorFlow fails, in every run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import ROOT

pytestmark = pytest.mark.slow

RULES = """
import socket, subprocess, sys, threading, multiprocessing
import pytest

def test_plain(): pass
def test_asks_git(): subprocess.run(["git", "--version"])
def test_process(): subprocess.run([sys.executable, "-c", ""])
def test_spawn(): multiprocessing.get_context("spawn").Process(target=print).start()
def test_port(): socket.create_server(("127.0.0.1", 0))
def test_library():
    import tensorflow
def test_handled():
    try:
        import keras
    except BaseException:
        pass
@pytest.fixture
def process(): subprocess.run([sys.executable, "-c", ""])
def test_fixture(process): pass
@pytest.fixture
def served(): subprocess.run([sys.executable, "-c", ""])
def test_slow_by_its_fixture(served): pass
@pytest.mark.slow
def test_slow(): subprocess.run([sys.executable, "-c", ""])
@pytest.mark.zoo
def test_large(): subprocess.run([sys.executable, "-c", ""])
"""
SLOW_FILE = "import pytest\npytestmark = [pytest.mark.slow]\nimport tensorflow\ndef test_whole(): pass\n"
FAST_FILE = "import keras\ndef test_import(): pass\n"


def outcomes(folder: Path, *arguments: str) -> tuple[dict[str, str], str]:
    """Run pytest on the files of a folder; return the outcome of each test, and all that was printed."""
    (folder / "conftest.py").write_text('pytest_plugins = ["helpers.lanes"]\n')
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    zoo\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return dict(re.findall(r"::test_(\w+) (PASSED|FAILED|ERROR)", done.stdout)), done.stdout


def test_a_test_that_breaks_a_rule_fails(tmp_path: Path) -> None:
    (tmp_path / "test_rules.py").write_text(RULES)
    found, said = outcomes(tmp_path)
    assert {name for name, outcome in found.items() if outcome == "PASSED"} == {
        *("plain", "asks_git", "slow_by_its_fixture", "slow", "large")
    }
    for rule in ("starts the process python", "starts a process", "opens a port", "loads tensorflow"):
        assert f"A test of the fast lane {rule}" in said
    assert "A test of the fast lane loads keras. Mark it with pytest.mark.slow." in said  # though handled


def test_the_fast_lane_reads_no_file_that_is_slow_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "test_rules.py").write_text(RULES)
    (tmp_path / "test_slow.py").write_text(SLOW_FILE.replace("tensorflow", "no_such_package"))
    found, _ = outcomes(tmp_path, "-m", "not slow")
    assert set(found) == {"plain", "asks_git", "process", "spawn", "port", "library", "handled", "fixture"}


def test_the_fast_lane_imports_no_file_that_loads_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "test_import.py").write_text(FAST_FILE)
    found, said = outcomes(tmp_path, "-m", "not slow")
    assert not found
    assert "A test of the fast lane loads keras" in said


def test_the_longest_files_come_first_and_are_there() -> None:
    from helpers.lanes import GROUPED, LONGEST

    tests = Path(__file__).parent
    assert [name for name in LONGEST if not (tests / name).is_file()] == []
    assert set(LONGEST) >= GROUPED
