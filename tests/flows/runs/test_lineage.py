from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers.results import Call, run
from hemaflow.flows.runs.lineage import Lineage, difference
from hemaflow.flows.runs.record import RunRecord
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore


def key(record: RunRecord, stage: str) -> str:
    found = record.key(stage)
    assert found
    return found


def test_a_result_knows_what_made_it_and_what_used_it(any_store: Store) -> None:
    first = run(any_store)
    second = run(any_store, {"train": {"seed": 1}}, content=b"other")
    lineage = Lineage.read(any_store)
    augment = lineage.manifests[key(first, "augment")]
    assert [parent.key for parent in lineage.parents(augment)] == [key(first, "ingest")]
    assert {child.key for child in lineage.children(augment)} == {
        key(record, "train") for record in (first, second)
    }
    assert [(record.run, state) for record, state in lineage.uses(augment.key)] == [
        (first.run, "ran"),
        (second.run, "reused"),
    ]
    model = lineage.manifests[key(second, "train")].object("model.keras")
    assert [made.key for made, _ in lineage.with_content(model.sha256)] == [key(second, "train")]
    assert lineage.with_key(key(first, "train")[:8]) == [lineage.manifests[key(first, "train")]]
    assert lineage.with_key("ab") == []  # too short to mean one


def test_two_runs_differ_by_what_was_changed(any_store: Store) -> None:
    one = run(any_store)
    other = run(any_store, {"train": {"seed": 1}, "evaluate": {"tta": "none"}}, content=b"other")
    found = difference(any_store, one, other)
    assert found["runs"] == [one.run, other.run]
    assert {name: values for name, values in found["config"].items() if values[0] != values[1]} == {
        "train.seed": [0, 1],
        "evaluate.tta": ["flips", "none"],
    }
    assert found["stages"]["ingest"] == found["stages"]["augment"] == "same"
    assert found["stages"]["train"] == ["train.seed 0 → 1"]
    assert set(found["stages"]["evaluate"]) == {
        "evaluate.tta flips → none",
        "the result of train changed",
        "the result of predict changed",
    }
    assert found["metrics"] == {"test accuracy": [0.9, 0.9]}


def test_what_only_one_of_them_has_is_shown_and_models_of_others_are_no_stages(store: LocalStore) -> None:
    one = run(store, facts={"backbone": "cnn", "classes": ["a", "b"]})
    other = run(store, {"train": {"initial_weights": f"run:{one.run}"}})
    assert "initial-weights" in other.needs
    one.metrics = {}
    found = difference(store, one, other)
    assert found["stages"].keys() == {"ingest", "augment", "train", "predict", "evaluate", "submit"}
    assert found["metrics"] == {"test accuracy": [None, 0.9]}


def test_a_run_that_ended_early_differs_by_how_far_it_got(any_store: Store) -> None:
    one, other = run(any_store), run(any_store, until_stage="augment")
    stages: dict[str, Any] = difference(any_store, one, other)["stages"]
    assert stages["augment"] == "same"
    assert stages["train"] == f"only run {one.run} got there"


def test_show_takes_a_run_a_key_or_a_file(hemaflow: Call, store: LocalStore, tmp_path: Path) -> None:
    first, second = run(store), run(store)
    code, out, _ = hemaflow("show")
    assert code == 0
    assert out.splitlines()[0].startswith(f"run {second.run} completed")
    assert [line.split()[3] for line in out.splitlines() if " reused " in line] == [first.run] * 6
    _, out, _ = hemaflow("show", first.run)
    assert ["used", "by", "run", second.run] in [line.split() for line in out.splitlines()]
    assert len([line for line in out.splitlines() if " ran " in line and " this one " in line]) == 6
    shown = json.loads(hemaflow("show", second.run, "--json")[1])
    assert set(shown["made_by"].values()) == {first.run}
    assert shown["used_by"] == []
    _, out, _ = hemaflow("show", key(first, "train")[:10])
    assert out.splitlines()[0] == f"train {key(first, 'train')}"
    said = [" ".join(line.split()) for line in out.splitlines()]
    assert f"made from augment {key(first, 'augment')[:12]}" in said
    assert f"used by submit {key(first, 'submit')[:12]}" in said
    assert f"made by run {first.run}" in said
    assert f"reused by run {second.run}" in said
    copy = tmp_path / "downloaded.zip"
    copy.write_bytes(b"submit submission.zip")
    document = json.loads(hemaflow("show", str(copy), "--json")[1])
    assert [(part["stage"], part["object"]) for part in document["parts"]] == [("submit", "submission.zip")]
    copy.write_bytes(b"of another place")
    code, _, err = hemaflow("show", str(copy))
    assert code == 2
    assert "--store" in err


def test_diff_names_what_differs(hemaflow: Call, store: LocalStore) -> None:
    one, other = run(store), run(store, {"train": {"seed": 1}}, content=b"other")
    code, out, _ = hemaflow("diff", one.run)
    assert code == 0
    said = [" ".join(line.split()) for line in out.splitlines()]
    assert said[0] == f"{one.run} {other.run}"
    assert "train.seed 0 1" in said
    assert "train train.seed 0 → 1" in said
    assert "augment same" in said
    assert json.loads(hemaflow("diff", one.run, "--json")[1])["stages"]["ingest"] == "same"


def test_verify_and_gc_speak_for_people_and_programs(hemaflow: Call, store: LocalStore) -> None:
    record = run(store)
    location = next(name for name in store.list(f"stages/train/{key(record, 'train')}/") if "model" in name)
    (store.root / location).write_bytes(b"other")
    code, out, err = hemaflow("verify")
    assert code == 1
    assert "model.keras has 5 bytes instead of" in out
    assert "hemaflow verify --remove" in err
    assert json.loads(hemaflow("verify", "--remove", "--json")[1])["damaged"][0]["object"] == location
    assert not (store.root / location).exists()
    run(store)
    code, out, _ = hemaflow("gc", "--keep-runs", "1", "--dry-run", "--grace", "0s")
    assert out.splitlines()[0] == f"run {record.run}"
    assert "would be removed" in out
    assert json.loads(hemaflow("gc", "--json")[1])["objects"] == 0
    for wrong in (["--older-than", "soon"], ["--keep-runs", "1", "--older-than", "1d"]):
        assert hemaflow("gc", *wrong)[0] == 2
