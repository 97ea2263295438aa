"""What of the config of train enters the key."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.pictures import inputs
from helpers.results import make
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.train.config import TrainConfig


def key_fields(store: LocalStore, **config: Any) -> dict[str, object]:
    return TrainConfig.model_validate(config).resolved(store).key_document()


def test_a_field_without_effect_does_not_enter_the_key(store: LocalStore) -> None:
    plain = key_fields(store)
    absent = {"focal_gamma", "focal_alpha", "plateau_patience", "plateau_factor", "min_learning_rate"}
    looked_up = {"initial_weights_sha256", "initial_classes", "ensemble_sha256"}
    assert not (absent | looked_up) & plain.keys()
    assert {"weight_decay", "warmup_epochs", "dropout"} <= plain.keys()
    assert plain["transfer"] == {"epochs": 0}
    assert {"focal_gamma", "focal_alpha"} <= key_fields(store, loss="focal").keys()
    plateau = key_fields(store, schedule="plateau")
    assert {"plateau_patience", "plateau_factor", "min_learning_rate"} <= plateau.keys()
    assert "warmup_epochs" not in plateau
    assert "weight_decay" not in key_fields(store, optimizer="adam")
    assert "dropout" not in key_fields(store, head_units=())


def test_of_an_ensemble_only_the_members_content_enters_the_key(store: LocalStore) -> None:
    names = []
    for seed in (1, 2):
        made = make("train", Draft(store, inputs("train", seed=seed)), str(seed).encode())
        names.append((f"train:{made.key}", made.object("model.keras").sha256))
    members, sha256 = zip(*names, strict=True)
    document = key_fields(store, ensemble_of=members)
    assert document == {"ensemble_of": ["model", "model"], "ensemble_sha256": list(sha256)}


@pytest.mark.parametrize("field", ["initial_weights_sha256", "initial_classes", "ensemble_sha256"])
def test_what_is_looked_up_is_no_field_of_the_config(field: str) -> None:
    assert field not in TrainConfig.model_fields
