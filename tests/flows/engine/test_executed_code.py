"""No function of a stage runs whose code is not in the stage's key: held against a run that was watched."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.commands import Whole
from helpers.executed import Executed, read_trace, unaccounted
from hemaflow.flows.config.stages import STAGE_NAMES
from hemaflow.infra.results.manifest import load_manifest

LEAST = {"ingest": 60, "augment": 60, "train": 60, "predict": 120, "evaluate": 100, "submit": 40}
"""Functions that ran in each stage, or more: else it was not watched."""


@pytest.fixture(scope="module")
def executed(whole: Whole) -> set[Executed]:
    return read_trace(Path(whole.store.url).parent / "trace")


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_every_function_that_runs_is_in_the_key_of_its_stage(
    stage: str, whole: Whole, executed: set[Executed]
) -> None:
    key = next(each["key"] for each in whole.done.document["stages"] if each["stage"] == stage)
    loaded = load_manifest(whole.store, stage, key)
    assert loaded
    own = {each for each in executed if each.stage == stage}
    assert len({(each.file, each.line) for each in own}) >= LEAST[stage]
    assert sorted(unaccounted(own, loaded[0].inputs.code)) == []


def test_a_function_that_no_key_holds_is_found(whole: Whole, executed: set[Executed]) -> None:
    run = next(each for each in executed if each.stage == "train" and each.name == "run")
    loaded = load_manifest(whole.store, "train", whole.done.document["stages"][2]["key"])
    assert loaded
    code = {file: dict(definitions) for file, definitions in loaded[0].inputs.code.items()}
    del code[run.file]["run"]
    assert list(unaccounted([run], code)) == [f"{run.file}:{run.line} run"]
