"""The lanes of the tests: the fast one, and the order of the slow one.

The fast lane: `pytest -m "not slow"` starts no process, opens no server port and loads no TensorFlow.

A test is slow where it or its file is marked `slow` or `zoo`, or where it uses one of SLOW_FIXTURES. Every
other test is held to the rules of the fast lane, in every run: it fails where it breaks one.

The order: processes of pytest-xdist take whole files, those that take longest first, so that all end at about
the same time. Files of one group follow each other in one process: they share servers that serve one test.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

SLOW_FIXTURES = frozenset({"s3_environment", "served", "server", "cluster", "whole"})
"""Fixtures that start a server or a process."""
LIBRARIES = frozenset({"tensorflow", "keras", "keras_cv", "jax", "torch"})
PROGRAMS = frozenset({"git", "file", "uname", "ldconfig", "gcc", "cc", "ld"})
"""Programs that hemaflow or a library asks for a line of text; each takes some milliseconds."""
URLLIB3_PROBE = "::1"
"""urllib3 binds a socket to it, once, to see whether the machine knows IPv6."""


LONGEST = (
    "flows/server/test_deployments.py",
    "flows/test_retraining.py",
    "flows/test_pipeline.py",
    "tasks/train/test_train.py",
    "tasks/model/test_zoo.py",
    "tasks/submit/test_submit.py",
    "flows/test_pipeline_s3.py",
    "tasks/train/test_ensembles.py",
    "tasks/augment/test_augment.py",
    "tasks/train/test_initial_weights.py",
    "tasks/train/test_backends.py",
    "flows/workflows/test_label_error_search.py",
    "docs/test_extending.py",
    "docs/test_notebook.py",
    "tasks/ingest/test_ingest.py",
    "docs/test_site.py",
    "infra/deploy/test_stack.py",
    "flows/api/test_api.py",
    "tasks/records/test_numpy_feed.py",
    "flows/server/test_task_runner.py",
    "infra/store/test_s3_store.py",
    "benchmarks/test_jax_script.py",
    "tasks/evaluate/test_evaluate.py",
    "infra/store/test_store_states.py",
)
"""The files that take 30 seconds or more on two cores, the longest first."""
GROUPED = frozenset({"flows/server/test_deployments.py", "flows/test_retraining.py"})
"""Files whose tests start workers of one pool: a worker of one would take up the runs of the other."""


class BrokenRule(BaseException):
    """A test of the fast lane broke a rule. Not an Exception: the code under test must not handle it."""

    def __str__(self) -> str:
        return f"A test of the fast lane {self.args[0]}. Mark it with pytest.mark.slow."


class _Watch:
    """The audit hook of this process, which acts only while a test of the fast lane runs.

    Attributes:
        test: The test that is held to the rules, or "" while none is.
        broken: The rule that it broke, or "".
    """

    def __init__(self) -> None:
        self.test = self.broken = ""

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.test and (rule := _broken_rule(event, arguments)):
            self.broken = self.broken or rule
            raise BrokenRule(rule)


def _broken_rule(event: str, arguments: tuple[object, ...]) -> str:
    if event == "import":
        package = str(arguments[0]).partition(".")[0]
        return f"loads {package}" if package in LIBRARIES else ""
    if event in ("subprocess.Popen", "os.posix_spawn"):
        program = Path(os.fsdecode(arguments[0])).name if isinstance(arguments[0], (str, bytes)) else ""
        return "" if program in PROGRAMS else f"starts the process {program or arguments[0]}"
    if event in ("os.fork", "os.forkpty", "os.system"):
        return "starts a process"
    if event == "socket.bind" and isinstance(arguments[1], tuple) and arguments[1][0] != URLLIB3_PROBE:
        return "opens a port"
    return ""


_watch = _Watch()


def pytest_configure(config: pytest.Config) -> None:
    """Start to watch this process."""
    sys.addaudithook(_watch)
    start = BaseProcess.start  # of multiprocessing, which tells no audit hook of a spawned process

    def watched_start(process: BaseProcess) -> None:
        sys.audit("os.fork")
        start(process)

    BaseProcess.start = watched_start  # type: ignore[method-assign]


def is_fast_lane(config: pytest.Config) -> bool:
    """Return whether slow tests are left out of this run."""
    return "not slow" in str(config.getoption("markexpr"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that are marked slow as a whole: to import them may load TensorFlow."""
    if is_fast_lane(config) and collection_path.suffix == ".py" and _is_marked_slow(collection_path):
        return True
    return None


def _is_marked_slow(path: Path) -> bool:
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark":
            return any(
                isinstance(part, ast.Attribute) and ast.unparse(part) == "pytest.mark.slow"
                for part in ast.walk(statement.value)
            )
    return False


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Hold the files of the fast lane to its rules while they are imported."""
    if isinstance(collector, pytest.Module) and is_fast_lane(collector.config):
        _watch.test = collector.nodeid
    try:
        return (yield)
    finally:
        _watch.test = ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that are slow by what they use, and put the longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(_file(item.nodeid), len(places)))
    for item in items:
        used = SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if used or item.get_closest_marker("zoo"):
            item.add_marker(pytest.mark.slow)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


class ByFiles(LoadFileScheduling):
    """Gives whole files to processes, in the order of collection; a group of files counts as one."""

    def _split_scope(self, nodeid: str) -> str:
        return "group" if _file(nodeid) in GROUPED else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFiles | None:
    """Return what divides the tests among processes, where whole files are asked for."""
    return ByFiles(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hold a test of the fast lane to its rules, its fixtures too."""
    _watch.broken = ""
    _watch.test = "" if item.get_closest_marker("slow") else item.nodeid
    try:
        return (yield)
    finally:
        _watch.test = ""


def pytest_exception_interact(call: pytest.CallInfo[object]) -> None:
    """Note that the broken rule is told."""
    if call.excinfo and isinstance(call.excinfo.value, BrokenRule):
        _watch.broken = ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fail a test that broke a rule in a thread, or whose code handled the error."""
    yield
    if _watch.broken:
        pytest.fail(str(BrokenRule(_watch.broken)), pytrace=False)
