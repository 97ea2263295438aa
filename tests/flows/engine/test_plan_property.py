"""`plan` and `run` give the same answer, whatever changed: config, code, data, the store itself."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.results import Silent, make
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.config.stages import STAGE_NAMES, STAGES, PipelineConfig, StageName
from hemaflow.flows.engine import engine as engine_module
from hemaflow.flows.engine.engine import Engine
from hemaflow.flows.engine.run import Run
from hemaflow.infra.results.fingerprint import code_fingerprint
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore

CONFIGS = [
    ("ingest", "seed", [0, 1]),
    ("augment", "seed", [0, 1]),
    ("train", "batch_size", [32, 64]),
    ("train", "seed", [0, 1]),
    ("evaluate", "tta", ["none", "flips"]),
    ("submit", "tta", [True, False]),
]
CODE = [
    "tasks/ingest/stage.py",
    "tasks/train/stage.py",
    "tasks/inference/views.py",
    "infra/results/manifest.py",
]


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """What a run may find: a config, edits of the code, the data, and which contents the stages come to."""
    config: dict[str, dict[str, Any]] = {}
    for stage, field, values in CONFIGS:
        config.setdefault(stage, {})[field] = draw(st.sampled_from(values))
    return {
        "config": config,
        "edits": draw(st.sets(st.sampled_from(CODE), max_size=2)),
        "data": draw(st.sampled_from(["one", "other"])),
        "contents": {stage: draw(st.sampled_from([b"a", b"b"])) for stage in STAGE_NAMES},
        "until": draw(st.sampled_from(["augment", "submit", "submit"])),
        "damage": draw(st.none() | st.sampled_from(STAGE_NAMES)),
    }


class World:
    """A store, and a code fingerprint that is that of the checkout with some files edited."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder / "store")
        self.folder = folder
        for name, colour in (("one", 10), ("other", 200)):
            self._draw(folder / name, colour)

    def engine(self, world: Mapping[str, Any]) -> Engine:
        config = PipelineConfig.model_validate(world["config"])
        data = str(self.folder / world["data"])
        return Engine(self.store, config, data, Settings(), until_stage=world["until"])

    def damage(self, stage: str | None) -> None:
        if stage:
            found = [name for name in self.store.list(f"stages/{stage}/") if "/manifest.json" not in name]
            self.store.delete(found[:1])

    def _draw(self, root: Path, colour: int) -> None:
        for label in ("a", "b"):
            (root / label).mkdir(parents=True)
            Image.new("RGB", (8, 8), (colour, 0, 0)).save(root / label / "1.png")


def ancestors(stage: StageName) -> set[str]:
    """The stages that a stage builds on, directly or not."""
    parents = STAGES[stage].parents
    return {*parents, *(above for parent in parents for above in ancestors(parent))}


@given(st.lists(worlds(), min_size=1, max_size=4))
def test_run_does_what_plan_said(history: list[dict[str, Any]]) -> None:
    folder = Path(tempfile.mkdtemp())
    true_fingerprint = code_fingerprint
    once = functools.cache(code_fingerprint)  # the files of the checkout stay as they are
    edits: set[str] = set()

    def edited(module: str, names: set[str]) -> dict[str, dict[str, str]]:
        return {
            file: definitions | ({"edited": "1"} if file in edits else {})
            for file, definitions in once(module, frozenset(names)).items()
        }

    engine_module.code_fingerprint = edited  # type: ignore[assignment]
    try:
        world_of = World(folder)
        for world in history:
            edits.clear()
            edits.update(world["edits"])
            world_of.damage(world["damage"])
            engine = world_of.engine(world)
            before = set(world_of.store.list(""))
            planned = engine.plan()
            assert set(world_of.store.list("")) == before  # a plan writes nothing
            run = Run(RunRequest(), Silent(), Settings(), world_of.engine(world))
            with run.recorded() as record:
                for stage in run.engine.stages:
                    with run.decided(stage) as decision:
                        made = None
                        if decision.state == "run":
                            made = make(stage, decision.draft(world_of.store), world["contents"][stage])
                        run.finish(decision, made)
            for plan, did in zip(planned, record.stages, strict=True):
                if plan.inputs is not None:  # its key is known beforehand: so is what happens
                    assert (plan.state, plan.inputs.key) == (
                        "reuse" if did.state == "reused" else "run",
                        did.key,
                    )
                    assert plan.reason == did.reason
                else:  # it follows a stage that runs, and may come to what was there before
                    ran = {other.stage for other in record.stages if other.state == "ran"}
                    follows = ran & ancestors(plan.stage)
                    assert did.state == "reused" or follows or did.damaged
            again = world_of.engine(world).plan()
            assert {plan.state for plan in again} == {"reuse"}
    finally:
        engine_module.code_fingerprint = true_fingerprint
        shutil.rmtree(folder)
