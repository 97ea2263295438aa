from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest

import hemaflow
from helpers.commands import ROOT
from helpers.results import Silent, make, report
from hemaflow.flows.api import start
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.config.stages import STAGE_NAMES
from hemaflow.flows.engine.engine import Engine
from hemaflow.flows.engine.open import open_engine
from hemaflow.flows.engine.run import Run
from hemaflow.flows.server import address
from hemaflow.infra.errors import ConfigError, StoreUnavailable, UserError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore


def completed(store: LocalStore) -> str:
    """Complete all stages of the demo with made-up objects; return the run's id."""
    request = RunRequest(store=str(store.root))
    with Run(request, Silent(), Settings(), open_engine(request, Settings())) as run, run.recorded():
        for stage in STAGE_NAMES:
            with run.decided(stage) as decision:
                run.finish(decision, make(stage, decision.draft(run.store)))
        report(run)
    return run.record.run


def public_parts() -> Iterator[tuple[str, object]]:
    """Yield the public names of the API, and the methods and properties of its own classes."""
    for name in hemaflow.__all__:
        found = getattr(hemaflow, name)
        yield name, found
        if isinstance(found, type) and found.__module__.startswith("hemaflow.flows.api"):
            for part, value in vars(found).items():
                if not part.startswith("_") and (callable(value) or isinstance(value, DESCRIPTORS)):
                    yield f"{name}.{part}", value


DESCRIPTORS = (property, cached_property)


def test_every_public_name_has_a_docstring_with_an_example() -> None:
    assert set(hemaflow.__all__) <= set(dir(hemaflow))
    missing = [name for name, part in public_parts() if ">>>" not in str(part.__doc__)]
    assert missing == []
    with pytest.raises(AttributeError, match="no_such"):
        hemaflow.no_such  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.slow
def test_the_examples_of_the_api_run(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the store of a run that was made as the example of `hemaflow.run` makes it."""
    monkeypatch.chdir(script.folder)
    monkeypatch.setenv("HEMAFLOW_STORE", str(script.folder / "store"))
    for name in ("PREFECT_API_URL", "PREFECT_PROFILES_PATH", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(script.folder / "prefect"))
    runner, parser = doctest.DocTestRunner(), doctest.DocTestParser()
    for name, part in public_parts():
        runner.run(parser.get_doctest(str(part.__doc__), {}, name, None, None))
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 50
    assert {stage.state for stage in hemaflow.runs()[-1].record.stages} == {"reused"}  # none trained again


@pytest.mark.slow
def test_importing_it_loads_neither_tensorflow_nor_prefect() -> None:
    code = (
        "import sys, hemaflow; hemaflow.run, hemaflow.Run\n"
        "found = {'tensorflow', 'keras', 'prefect', 'pandas', 'boto3'} & sys.modules.keys()\n"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_repeat_makes_one_engine_one_plan_and_hashes_every_object_once(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "has_server", lambda: False)
    first = completed(store)
    calls: Counter[str] = Counter()

    def counted(kind: type, method: str) -> None:
        original = getattr(kind, method)

        def call(self: object, *arguments: object, **options: object) -> object:
            calls[f"stat {arguments[0]}" if method == "stat" else method] += 1
            return original(self, *arguments, **options)

        monkeypatch.setattr(kind, method, call)

    counted(Engine, "__init__")
    counted(Engine, "plan")
    counted(LocalStore, "stat")
    run = hemaflow.run(store=store.root, progress=False)
    assert run.id != first
    assert {stage.state for stage in run.record.stages} == {"reused"}
    assert (calls.pop("__init__"), calls.pop("plan")) == (1, 1)
    assert calls.pop(f"stat reports/{run.id}/report.html") == 1
    assert len(calls) == sum(1 for name in store.list("stages/") if not name.endswith("manifest.json"))
    assert set(calls.values()) == {1}


def test_a_result_that_vanishes_after_the_plan_is_planned_anew(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed(store)
    request = RunRequest(store=str(store.root))
    run = Run(request, Silent(), Settings(), open_engine(request, Settings()))
    plan, plans = run.engine.plan, []

    def collected() -> object:
        decisions = plan()
        plans.append([decision.state for decision in decisions])
        if len(plans) == 1:
            store.delete([name for name in store.list("stages/submit/") if name.endswith("manifest.json")])
        return decisions

    monkeypatch.setattr(run.engine, "plan", collected)
    decisions = run.plan()
    run.record.save(store)
    run.confirm(decisions)
    assert [states[-1] for states in plans] == ["reuse", "run"]
    for stage in STAGE_NAMES[:-1]:
        with run.decided(stage) as decision:
            run.finish(decision)
    with run.decided("submit") as decision:
        assert decision.state == "run"


def test_runs_are_listed_and_opened(store: LocalStore) -> None:
    first, second = completed(store), completed(store)
    assert [run.id for run in hemaflow.runs(store.root)] == [first, second]
    run = hemaflow.open_run(first, store.root)
    assert run.status == "completed"
    page = run.report.path.read_text()
    assert "made up" in page
    assert first in page
    assert second not in page
    assert "made up" in run.report._repr_html_()
    assert run.submission.read_bytes() == b"submit submission.zip"
    with pytest.raises(UserError, match="No run is called"):
        hemaflow.open_run("no-such-run", store.root)
    with pytest.raises(UserError, match="val or test"):
        run.predictions("train")


def test_mistakes_are_answered_before_anything_runs(store: LocalStore) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'laptop'"):
        hemaflow.run("sample", recipe="labtop", store=store.root)
    with pytest.raises(ConfigError, match="batch_sise"):
        hemaflow.run("sample", set={"train.batch_sise": 32}, store=store.root)
    assert list(store.list("")) == []


@pytest.mark.parametrize(
    ("profiles", "environment", "expected"),
    [
        ("", {}, False),
        ('active = "own"\n[profiles.own]\nPREFECT_API_URL = "http://127.0.0.1:1/api"\n', {}, True),
        ('active = "own"\n[profiles.own]\n[profiles.other]\nPREFECT_API_URL = "http://x"\n', {}, False),
        ("not toml", {}, False),
        ("", {"PREFECT_API_URL": "http://127.0.0.1:1/api"}, True),
    ],
)
def test_a_server_is_found_in_the_environment_or_the_active_profile(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    profiles: str,
    environment: dict[str, str],
    expected: bool,
) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILES_PATH", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    (tmp_path / "profiles.toml").write_text(profiles)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert address.has_server() is expected


def test_work_is_retried_where_the_store_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from hemaflow.flows.engine import retries

    waits: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", waits.append)
    answers = iter([StoreUnavailable("away"), StoreUnavailable("away"), "done"])

    def work() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retries.with_retries(work) == "done"
    assert waits == [10.0, 60.0]

    def mistake() -> None:
        raise UserError("wrong")

    with pytest.raises(UserError, match="wrong"):
        retries.with_retries(mistake)
    assert len(waits) == 2


SCRIPT = """
import json, hemaflow
run = hemaflow.run("sample", recipe="demo", set={settings!r}, store="store")
table = run.predictions("test")
print(json.dumps([run.status, run.metrics.test.accuracy, len(run.history), list(table.columns)[:3]]))
print(run.model.predict([[[[255, 255, 255]] * 96] * 96])[0])
"""
QUICK = {"train.fine_tuning.epochs": 1, "evaluate.robustness": "none"}
"""The settings of the example of `hemaflow.run`."""


class Script(NamedTuple):
    """A script of a user that ran, and what it printed."""

    folder: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Script:
    """Without a guard for `__main__`, and in a folder with a tasks.py and a flows/ of its own."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "tasks.py").write_text("raise RuntimeError('a user has a module of that name')\n")
    (folder / "flows").mkdir()
    (folder / "flows" / "__init__.py").write_text("raise RuntimeError('this one, too')\n")
    (folder / "script.py").write_text(SCRIPT.format(settings=QUICK))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={
            **kept,
            "PREFECT_HOME": str(folder / "prefect"),
            "PYTHONPATH": str(ROOT),
            "HEMAFLOW_WORKERS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return Script(folder, done)


@pytest.mark.slow
def test_a_plain_script_runs_it_beside_modules_of_the_same_names(script: Script) -> None:
    assert script.done.returncode == 0, script.done.stderr
    printed, named = script.done.stdout.splitlines()[-2:]
    status, accuracy, epochs, columns = json.loads(printed)
    assert (status, epochs, columns) == ("completed", 1, ["id", "label", "predicted"])
    assert 0.0 <= accuracy <= 1.0
    with hemaflow.open_source("sample") as source:
        assert named in source.scan().classes
