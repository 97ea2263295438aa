"""Ensembles: the mean of what the members answer, as a model like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.networks import TWO_LAYERS
from helpers.pictures import CLASSES, SIZE, inputs, parents
from hemaflow.infra.errors import StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.model.ensembles import average
from hemaflow.tasks.predict.grad_cam import grad_cam
from hemaflow.tasks.submit.package import model_code, pack, run_submission
from hemaflow.tasks.train.config import ResolvedTrainConfig
from hemaflow.tasks.train.stage import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_layers")]

UNTRAINED: dict[str, Any] = {"backbone": TWO_LAYERS, "head_units": (8,), "fine_tuning": {"epochs": 0}}


def train(store: LocalStore, **changes: Any) -> Manifest:
    others = {} if "ensemble_of" in changes else UNTRAINED
    config = ResolvedTrainConfig.model_validate(others | changes)
    return run(parents(store), config, Draft(store, inputs("train", config=config.model_dump(mode="json"))))


def of(*members: Manifest, **changes: Any) -> dict[str, Any]:
    return {
        "ensemble_of": tuple(f"train:{member.key}" for member in members),
        "ensemble_sha256": tuple(member.object("model.keras").sha256 for member in members),
    } | changes


def model(store: LocalStore, manifest: Manifest) -> Any:
    import keras

    path = manifest.path(store, "model.keras")
    return keras.saving.load_model(path, compile=False, safe_mode=True)


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def test_an_ensemble_answers_with_the_mean_and_is_submitted(store: LocalStore, tmp_path: Path) -> None:
    members = [train(store, seed=seed) for seed in (1, 2, 3)]
    made = train(store, **of(*members))
    images = pictures(12)
    answers = [np.array(model(store, member)(images)) for member in members]
    averaged = np.array(model(store, made)(images))
    np.testing.assert_allclose(averaged, np.mean(answers, axis=0), atol=1e-6)
    assert made.facts["num_parameters"] == 3 * members[0].facts["num_parameters"]
    assert made.facts["backbone"] == "ensemble"
    assert made.facts["optimizer_steps"] == 0

    np.save(tmp_path / "images.npy", images)
    path = made.path(store, "model.keras")
    pack(tmp_path / "submission.zip", model_code(CLASSES, ("identity",), 4), path)
    outcome = run_submission(tmp_path / "submission.zip", tmp_path / "images.npy")
    np.testing.assert_array_equal(outcome.labels, averaged.argmax(1))


def test_its_accuracy_on_val_is_its_own(store: LocalStore) -> None:
    trained = train(store, batch_size=16, fine_tuning={"epochs": 8, "learning_rate": 0.003})
    assert trained.facts["best_val_accuracy"] > 0.9
    made = train(store, **of(trained, trained))
    assert made.facts["best_val_accuracy"] == pytest.approx(trained.facts["best_val_accuracy"], abs=1e-6)


def test_an_ensemble_may_be_a_member_and_is_explained(store: LocalStore) -> None:
    members = [train(store, seed=seed) for seed in (1, 2, 3)]
    pair = train(store, **of(*members[:2]))
    made = model(store, train(store, **of(pair, members[2])))
    images = pictures(3)
    answers = [np.array(model(store, member)(images)) for member in members]
    np.testing.assert_allclose(
        np.array(made(images)), (answers[0] + answers[1] + 2 * answers[2]) / 4, atol=1e-6
    )
    heat = [grad_cam(model(store, one), images, [0, 1, 2]) for one in (pair, members[2])]
    expected = np.mean(heat, axis=0)
    np.testing.assert_allclose(
        grad_cam(made, images, [0, 1, 2]), expected / expected.max((1, 2), keepdims=True), atol=1e-5
    )


def test_the_mean_is_exact_where_a_gpu_computes_in_half_precision(store: LocalStore) -> None:
    import keras

    members = [model(store, train(store, seed=seed)) for seed in (1, 2)]
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        averaged = average(members)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    images = pictures(12)
    expected = np.mean([np.array(member(images)) for member in members], axis=0)
    np.testing.assert_allclose(np.array(averaged(images)), expected, atol=1e-6)


def test_where_it_looks_is_the_mean_of_where_its_members_look(store: LocalStore) -> None:
    members = [train(store, seed=seed) for seed in (1, 2)]
    images = pictures(3)
    own = [grad_cam(model(store, member), images, [0, 1, 2]) for member in members]
    expected = np.mean(own, axis=0)
    expected /= expected.max((1, 2), keepdims=True)
    found = grad_cam(model(store, train(store, **of(*members))), images, [0, 1, 2])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_members_that_are_others_or_know_other_images_are_refused(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = train(store, seed=1)
    with pytest.raises(StageError, match="was changed or removed"):
        train(store, **of(made, made, ensemble_sha256=("0" * 64,) * 2))
    with pytest.raises(ValueError, match="two members or more"):
        ResolvedTrainConfig(ensemble_of=(f"train:{made.key}",))
    with pytest.raises(ValueError, match="Expected run:"):
        ResolvedTrainConfig(ensemble_of=("first", "second"))
    larger = LocalStore(tmp_path / "larger")
    monkeypatch.setattr("helpers.pictures.SIZE", 32)
    others = parents(larger)
    config = ResolvedTrainConfig.model_validate(of(made, made))
    with pytest.raises(StageError, match="of other classes, or of another size"):
        run(type(others)(store, others.manifests), config, Draft(store, inputs("train")))
