"""Training that starts from the model of another run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.networks import TWO_LAYERS
from helpers.pictures import CLASSES, inputs, parents
from hemaflow.infra.errors import StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.train.config import ResolvedTrainConfig
from hemaflow.tasks.train.stage import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_layers")]

UNTRAINED: dict[str, Any] = {"backbone": TWO_LAYERS, "head_units": (8,), "fine_tuning": {"epochs": 0}}


def train(store: LocalStore, stage: str = "train", **changes: Any) -> Manifest:
    config = ResolvedTrainConfig.model_validate(UNTRAINED | changes)
    return run(parents(store), config, Draft(store, inputs("train", made=stage)))


def weights(store: LocalStore, manifest: Manifest) -> list[Any]:
    import keras

    return keras.saving.load_model(manifest.path(store, "model.keras"), compile=False).get_weights()  # type: ignore[no-any-return]


def start(made: Manifest, **changes: Any) -> dict[str, Any]:
    return {
        "seed": 7,
        "initial_weights": f"train:{made.key}",
        "initial_weights_sha256": made.object("model.keras").sha256,
        "initial_classes": tuple(CLASSES),
    } | changes


def equal(ones: list[Any], others: list[Any]) -> list[bool]:
    return [np.array_equal(one, other) for one, other in zip(ones, others, strict=True)]


def test_backbone_and_head_go_on_from_a_model_of_the_same_classes(store: LocalStore) -> None:
    made = train(store, "first", seed=1)
    assert not all(equal(weights(store, made), weights(store, train(store, "other", seed=7))))
    assert all(equal(weights(store, made), weights(store, train(store, "next", **start(made)))))


@pytest.mark.parametrize("changes", [{"initial_classes": ("red", "green", "blue")}, {"head_units": (16,)}])
def test_the_head_begins_anew_where_it_does_not_fit(store: LocalStore, changes: dict[str, Any]) -> None:
    made = train(store, "first", seed=1)
    follows = train(store, "next", **start(made, **changes))
    num_head = 4 + 2 + 2  # of the dense layer: kernel, bias, and BatchNorm's four; of the last: kernel, bias
    same = equal(weights(store, made)[:-num_head], weights(store, follows)[:-num_head])
    assert all(same)
    head = weights(store, follows)[-2]
    assert not np.array_equal(head, weights(store, made)[-2])


def test_a_model_that_is_another_or_of_another_backbone_is_not_started_from(store: LocalStore) -> None:
    made = train(store, "first", seed=1)
    with pytest.raises(StageError, match="was changed or removed"):
        train(store, "next", **start(made, initial_weights_sha256="0" * 64))
    with pytest.raises(StageError, match="has another backbone"):
        train(store, "next", **start(made, backbone="mobilenetv2-0.35", input_size_pixels=32))


def test_images_too_small_for_the_backbone_are_a_mistake(store: LocalStore) -> None:
    with pytest.raises(Exception, match=r"--set train\.input_size_pixels=32"):
        train(store, backbone="mobilenetv2-0.35")
    with pytest.raises(ValueError, match="at least 16 pixels"):
        ResolvedTrainConfig(input_size_pixels=8)
    with pytest.raises(ValueError, match="the whole key of a result"):
        ResolvedTrainConfig(initial_weights="train:12ab")
