from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hemaflow.flows.config.stages import STAGE_NAMES, STAGES, PipelineConfig
from hemaflow.flows.engine import engine as engine_module
from hemaflow.flows.engine.engine import Decision, Engine, all_reused
from hemaflow.infra.errors import ConfigError, UserError
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore

ROOT = Path(__file__).resolve().parents[3]


def engine(store: LocalStore, config: dict[str, Any] | None = None, **arguments: Any) -> Engine:
    return Engine(store, PipelineConfig.model_validate(config or {}), "sample", Settings(), **arguments)


def complete(
    own: Engine, results: Sequence[str] = STAGE_NAMES, content: bytes = b"result"
) -> dict[str, Manifest]:
    """Complete stages as the flow would, with results that are not those of the work."""
    manifests: dict[str, Manifest] = {}
    for stage in STAGE_NAMES:
        parents: dict[str, Manifest] = {parent: manifests[parent] for parent in STAGES[stage].parents}
        decision = own.decide(stage, parents)
        if decision.manifest is None and stage in results:
            draft = decision.draft(own.store)
            draft.put("one", stage.encode() + content)
            draft.put("other", stage.encode())
            manifests[stage] = draft.commit(fact=1)
        elif decision.manifest:
            manifests[stage] = decision.manifest
        else:
            break
    return manifests


def states(decisions: Sequence[Decision]) -> str:
    """Return the states in order of the stages: r for run, - for reuse."""
    return "".join("r" if decision.state == "run" else "-" for decision in decisions)


def test_a_new_store_has_everything_to_do(store: LocalStore) -> None:
    decisions = engine(store).plan()
    assert states(decisions) == "rrrrrr"
    assert decisions[0].reason == "never built in this store"
    assert decisions[2].reason == "follows ingest, augment"
    assert list(store.list("")) == []


def test_a_backend_that_keras_does_not_know_is_told_before_any_work(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jaxx")
    with pytest.raises(ConfigError, match="Received: jaxx"):
        engine(store)
    engine(store, until_stage="ingest")  # which needs none


def test_what_is_complete_is_reused(store: LocalStore) -> None:
    complete(engine(store))
    decisions = engine(store).plan()
    assert all_reused(decisions)
    assert {decision.reason for decision in decisions} == {"complete, 2 objects checked"}


@pytest.mark.parametrize(
    ("config", "expected", "reason"),
    [
        ({"evaluate": {"tta": "none"}}, "---rrr", "predict.views"),
        ({"train": {"seed": 3}}, "--rrrr", "train.seed 0 → 3"),
        ({"submit": {"tta": False}}, "-----r", "submit.tta True → False"),
        ({"ingest": {"seed": 1}}, "rrrrrr", "ingest.seed 0 → 1"),
    ],
)
def test_a_change_runs_its_stage_and_what_follows_and_says_why(
    store: LocalStore, config: dict[str, Any], expected: str, reason: str
) -> None:
    complete(engine(store))
    decisions = engine(store, config).plan()
    assert states(decisions) == expected
    assert reason in decisions[expected.index("r")].reason


def test_another_version_of_a_library_runs_the_stages_that_it_shapes(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(engine(store))
    installed = engine_module.library_versions

    def upgraded(names: Iterable[str]) -> dict[str, str]:
        return {name: "99.0" if name == "keras" else version for name, version in installed(names).items()}

    monkeypatch.setattr(engine_module, "library_versions", upgraded)
    decisions = engine(store).plan()
    assert states(decisions) == "-rrrrr"
    assert re.search(r"keras \S+ → 99\.0", decisions[1].reason)


def test_a_stage_that_comes_out_the_same_lets_what_follows_be_reused(store: LocalStore) -> None:
    complete(engine(store))
    changed = engine(store, {"augment": {"shard_bytes": 1 << 20}})
    assert states(changed.plan()) == "-rrrrr"
    complete(changed)
    assert states(engine(store, {"augment": {"shard_bytes": 1 << 20}}).plan()) == "------"
    # Only augment was computed again: it gave the same content, which the results after it are keyed by.
    assert len({name.split("/")[2] for name in store.list("stages/augment/")}) == 2
    assert len({name.split("/")[2] for name in store.list("stages/train/")}) == 1


@pytest.mark.parametrize("damage", ["missing", "cut", "altered"])
def test_damage_is_found_named_and_repaired(store: LocalStore, damage: str) -> None:
    manifests = complete(engine(store))
    path = store.root / manifests["train"].object("one").location
    path.chmod(0o644)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "cut" else b"x" * path.stat().st_size)
    decisions = engine(store).plan()
    assert states(decisions) == "--rrrr"
    assert decisions[2].damaged == ("one",)
    assert [stored.name for stored in decisions[2].intact] == ["other"]
    assert decisions[2].reason.startswith("damaged: one ")
    repaired = complete(engine(store))
    assert repaired["train"].digest == manifests["train"].digest
    assert all_reused(engine(store).plan())


def test_from_computes_a_stage_and_all_after_it_again(store: LocalStore) -> None:
    complete(engine(store))
    decisions = engine(store, from_stage="train").plan()
    assert states(decisions) == "--rrrr"
    assert decisions[2].reason == "asked for with --from"
    assert decisions[2].forget
    assert states(engine(store, from_stage="train", until_stage="train").plan()) == "--r"


def test_from_needs_what_comes_before(store: LocalStore) -> None:
    complete(engine(store), ["ingest"])
    with pytest.raises(
        UserError, match=r"Cannot start from 'train': its input 'augment'(.|\n)*--from augment"
    ):
        engine(store, from_stage="train").plan()
    with pytest.raises(UserError, match="Nothing is left to do"):
        engine(store, from_stage="train", until_stage="augment")


def test_of_two_results_the_nearest_explains(store: LocalStore) -> None:
    complete(engine(store))
    complete(engine(store, {"train": {"seed": 1, "batch_size": 8, "label_smoothing": 0.2}}))
    reason = engine(store, {"train": {"seed": 1, "batch_size": 8}}).plan()[2].reason
    assert "train.label_smoothing 0.2 → 0.1" in reason
    assert "seed" not in reason


# Edits of the code: in a copy of the checkout, by the command itself.


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("hemaflow", "flows", "tasks", "infra"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignored)
    return copy


PLAN = """
import sys
from hemaflow.flows.cli import main
main.app(["plan", "--store", sys.argv[1], "--json"], standalone_mode=False)
loaded = {"tensorflow", "keras", "keras_cv", "prefect", "sklearn", "matplotlib"} & sys.modules.keys()
sys.exit(f"{loaded} were imported" if loaded else 0)
"""


def plan_in(checkout: Path, store: LocalStore) -> list[dict[str, Any]]:
    """Return the plan of the demo recipe by the code in a checkout; nothing heavy may be imported for it."""
    before = sorted(store.root.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", PLAN, str(store.root)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(store.root.rglob("*")) == before
    stages: list[dict[str, Any]] = json.loads(done.stdout)["stages"]
    return stages


@pytest.mark.parametrize(
    ("file", "old", "new", "expected", "named"),
    [
        ("tasks/train/stage.py", "\nlog = ", "\n# Say how it goes.\nlog = ", "------", ""),
        ("tasks/train/stage.py", '    """Train, from', '    """Train on, from', "------", ""),
        (
            "tasks/train/stage.py",
            "fitting.run()",
            "fitting.run() or None",
            "--rrrr",
            "train/stage.py changed",
        ),
        (
            "tasks/train/schedules.py",
            "0.5 * (1.0 + math",
            "0.50 * (1.01 + math",
            "--rrrr",
            "schedules.py changed",
        ),
        ("tasks/predict/grad_cam.py", "BATCH_SIZE = 8", "BATCH_SIZE = 4", "---rrr", "grad_cam.py changed"),
        (
            "tasks/evaluate/metrics.py",
            "CONFIDENCE = 0.95",
            "CONFIDENCE = 0.9",
            "----rr",
            "evaluate/metrics.py changed",
        ),
        ("tasks/report/report.html.j2", "<body", "<body ", "------", ""),
        ("flows/api/console.py", "PLAIN_SECONDS = 5.0", "PLAIN_SECONDS = 6.0", "------", ""),
    ],
)
@pytest.mark.slow
def test_an_edit_changes_the_keys_of_what_it_can_reach_and_plan_names_the_file(
    store: LocalStore, checkout: Path, file: str, old: str, new: str, expected: str, named: str
) -> None:
    from hemaflow.flows.config.recipes import recipe_named

    complete(Engine(store, recipe_named("demo").config, "sample", Settings()))
    path = checkout / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    try:
        stages = plan_in(checkout, store)
    finally:
        path.write_text(text)
    assert "".join("r" if stage["state"] == "run" else "-" for stage in stages) == expected
    if named:
        assert named in stages[expected.index("r")]["reason"]
