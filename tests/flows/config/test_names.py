"""Configs by name: that of a run, and names that are not quite right."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.results import Call, run
from hemaflow.infra.errors import nearest
from hemaflow.infra.store.local import LocalStore


def test_the_config_of_a_run_is_a_recipe(hemaflow: Call, store: LocalStore, tmp_path: Path) -> None:
    made = run(store, {"train": {"seed": 7}, "augment": {"copies": 0}})
    code, text, _ = hemaflow("show", made.run, "--config")
    assert code == 0
    (tmp_path / "mine.yaml").write_text(text)
    for given in (["--recipe", str(tmp_path / "mine.yaml")], ["--config", made.run]):
        code, out, err = hemaflow("plan", *given, "--json")
        assert code == 0, err
        assert {stage["state"] for stage in json.loads(out)["stages"]} == {"reuse"}
    _, out, _ = hemaflow("plan", "--config", made.run, "--set", "train.seed=8", "--json")
    states = [stage["state"] for stage in json.loads(out)["stages"]]
    assert states == ["reuse", "reuse", *["run"] * 4]
    code, _, err = hemaflow("plan", "--config", made.run, "--recipe", "cnn")
    assert code == 2
    assert "cannot go with --recipe" in err


def test_a_name_that_others_begin_with_may_mean_any_of_these() -> None:
    assert nearest("efficientnetv2", ["cnn", "efficientnetv2-s", "efficientnetv2-m", "efficientnet-b0"]) == (
        "Did you mean 'efficientnetv2-m' or 'efficientnetv2-s'? "
        "One of: cnn, efficientnet-b0, efficientnetv2-m, efficientnetv2-s."
    )
    assert nearest("", ["a"]) == "One of: a."


def test_a_field_in_a_group_of_its_own_is_the_only_one_proposed(hemaflow: Call) -> None:
    code, _, err = hemaflow("plan", "--set", "train.epochs=5")
    assert code == 2
    assert "Perhaps train.transfer.epochs or train.fine_tuning.epochs was meant." in err
    assert "warmup_epochs" not in err
