from __future__ import annotations

from typing import Any

from hemaflow.flows.runs.why import MAX_CAUSES, causes, explain
from hemaflow.infra.results.manifest import KeyInputs, Manifest


def inputs(**changes: Any) -> KeyInputs:
    document: dict[str, Any] = {
        "stage": "train",
        "config": {"epochs": 10, "fine_tuning": {"epochs": 3}},
        "parents": {"ingest": "a" * 64, "augment": "b" * 64},
        "code": {"tasks/model.py": {"build_head": "1", "module level": "2"}},
        "libraries": {"keras": "3.15.1"},
    }
    return KeyInputs.model_validate(document | changes)


def complete(key_inputs: KeyInputs) -> Manifest:
    return Manifest(stage="train", key=key_inputs.key, inputs=key_inputs, objects=(), facts={})


def test_every_kind_of_cause_is_named() -> None:
    new = inputs(
        config={"epochs": 12, "fine_tuning": {"epochs": 4}},
        parents={"ingest": "a" * 64, "augment": "c" * 64},
        code={"tasks/model.py": {"build_head": "9", "module level": "2"}, "tasks/new.py": {}},
        libraries={"keras": "3.16.0"},
    )
    assert list(causes(inputs(), new)) == [
        "tasks/model.py changed (definition build_head)",
        "tasks/new.py is now used",
        "train.epochs 10 → 12",
        "train.fine_tuning.epochs 3 → 4",
        "the result of augment changed",
        "keras 3.15.1 → 3.16.0",
    ]


def test_another_kind_of_data_is_a_cause() -> None:
    found = list(causes(inputs(names=("folder",)), inputs(names=("zip",))))
    assert found == ["the kind of the data folder → zip"]


def test_a_field_that_only_one_key_has_is_no_cause_beside_one_that_changed() -> None:
    cosine = inputs(config={"schedule": "cosine", "warmup_epochs": 1.0})
    plateau = inputs(config={"schedule": "plateau", "plateau_patience": 3})
    assert list(causes(cosine, plateau)) == ["train.schedule cosine → plateau"]
    assert list(causes(inputs(config={}), inputs(config={"a": 1}))) == ["train.a None → 1"]


def test_the_nearest_complete_result_is_compared_with() -> None:
    far = complete(inputs(config={"epochs": 1, "fine_tuning": {"epochs": 1}}))
    near = complete(inputs(config={"epochs": 11, "fine_tuning": {"epochs": 3}}))
    assert explain(inputs(), [far, near]) == f"train.epochs 11 → 10 (since {near.key[:8]})"


def test_fields_that_only_one_has_make_a_result_less_near() -> None:
    ensemble = complete(inputs(config={"ensemble_of": ["model", "model"]}))
    trained = complete(inputs(config={"ensemble_of": [], "epochs": 10, "seed": 1, "loss": "focal"}))
    new = inputs(config={"ensemble_of": [], "epochs": 12, "seed": 2, "loss": "focal"})
    expected = f"train.epochs 10 → 12; train.seed 1 → 2 (since {trained.key[:8]})"
    assert explain(new, [ensemble, trained]) == expected


def test_without_a_complete_result_there_is_nothing_to_compare_with() -> None:
    assert explain(inputs(), []) == "never built in this store"


def test_many_causes_are_counted() -> None:
    old = inputs(config={f"field{n}": n for n in range(20)})
    new = inputs(config={f"field{n}": -1 - n for n in range(20)})
    assert f"and {20 - MAX_CAUSES} more" in explain(new, [complete(old)])


def test_another_version_of_hemaflow_is_one_cause() -> None:
    same = {f"infra/{name}.py": {"file": "1"} for name in ("__init__", "errors")}
    old = inputs(
        code={**same, **{f"tasks/{n}.py": {"f": "1"} for n in range(9)}}, config={"epochs": 1, "gone": 2}
    )
    new = inputs(code={**same, **{f"tasks/train/{n}.py": {"f": "1"} for n in range(8)}}, config={"epochs": 2})
    assert list(causes(old, new)) == ["another version of hemaflow", "train.epochs 1 → 2"]
    changed = inputs(code={name: {"f": "2"} for name in new.code}, config=new.config)
    assert explain(new, [complete(old), complete(changed)]).startswith("infra/__init__.py changed")
    assert explain(new, [complete(old)]).startswith("another version of hemaflow; train.epochs 1 → 2 (since ")
