from __future__ import annotations

import json
import multiprocessing
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.networks import TWO_LAYERS, two_layers_registered
from helpers.pictures import inputs, parents
from hemaflow.infra.errors import ConfigError, Interrupted, StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.train import checkpoint, loop
from hemaflow.tasks.train.config import ResolvedTrainConfig, TrainConfig
from hemaflow.tasks.train.loop import CHECKPOINT
from hemaflow.tasks.train.stage import run
from hemaflow.tasks.train.weight_average import WeightAverage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_layers")]

CONFIG: dict[str, Any] = {
    "backbone": TWO_LAYERS,
    "batch_size": 16,
    "head_units": (16,),
    "transfer": {"epochs": 1},
    "fine_tuning": {"epochs": 3, "learning_rate": 0.003},
    "ema_momentum": 0.5,
    "average_epochs": 2,
    "class_weights": "balanced",
    "online": ({"name": "RandomFlip"},),
    "seed": 3,
}
NUM_TRAIN = 91  # the classes have 31, 30 and 30: the weights of the images differ
STEPS_PER_EPOCH = 6  # ceil(91 / 16)


def config(**changes: Any) -> ResolvedTrainConfig:
    return ResolvedTrainConfig.model_validate(CONFIG | changes)


def train(
    store: LocalStore, train_config: ResolvedTrainConfig, progress: Any = None, stage: str = "train"
) -> Manifest:
    draft = Draft(store, inputs(stage), progress or (lambda *_: None))
    return run(parents(store, NUM_TRAIN), train_config, draft)


def history(store: LocalStore, manifest: Manifest) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(manifest.read(store, "history.json"))
    return [{name: value for name, value in row.items() if name != "phase"} for row in rows]


def weights(store: LocalStore, manifest: Manifest) -> list[Any]:
    import keras

    return keras.saving.load_model(manifest.path(store, "model.keras"), compile=False).get_weights()  # type: ignore[no-any-return]


def test_training_learns_and_says_how(store: LocalStore) -> None:
    told: list[tuple[int, int, str]] = []
    manifest = train(
        store, config(fine_tuning={"epochs": 12, "learning_rate": 0.003}), lambda *c: told.append(c)
    )
    assert manifest.facts["optimizer_steps"] == 13 * STEPS_PER_EPOCH
    assert manifest.facts["best_val_accuracy"] > 0.9
    rows = json.loads(manifest.read(store, "history.json"))
    assert [row["phase"] for row in rows] == ["transfer"] + ["fine-tuning"] * 12
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert told[-1][:2] == (13 * STEPS_PER_EPOCH, 13 * STEPS_PER_EPOCH)


CUT_AT_STEP = 9
"""In the middle of the second epoch."""


def _train_in_child(root: Path, sign: int) -> None:
    loop.PROGRESS_SECONDS = 0.0

    def cut(done: int, total: int, message: str) -> None:
        if done == CUT_AT_STEP:
            os.kill(os.getpid(), sign)

    try:
        with two_layers_registered():
            train(LocalStore(root), config(), cut)
    except Interrupted:
        os._exit(42)


@pytest.fixture(scope="module")
def uncut(two_layers: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStore, Manifest]:
    """A training that nothing disturbed, and its store."""
    store = LocalStore(tmp_path_factory.mktemp("uncut"))
    return store, train(store, config())


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_cut_training_goes_on_and_ends_as_an_uncut_one(
    store: LocalStore, uncut: tuple[LocalStore, Manifest], sign: int
) -> None:
    whole_store, whole = uncut
    draft = Draft(store, inputs("train"))
    child = multiprocessing.get_context("spawn").Process(target=_train_in_child, args=(store.root, sign))
    child.start()
    child.join(300)
    assert child.exitcode == (42 if sign == signal.SIGTERM else -sign)
    kept = draft.kept(CHECKPOINT)
    assert kept
    # SIGTERM keeps every step that was taken, SIGKILL those of the epochs that were over.
    done = checkpoint.unpack(kept)[0].optimizer_steps
    assert done == (CUT_AT_STEP if sign == signal.SIGTERM else STEPS_PER_EPOCH)
    resumed = train(store, config())
    assert resumed.facts["optimizer_steps"] == whole.facts["optimizer_steps"] == 4 * STEPS_PER_EPOCH
    assert history(store, resumed) == history(whole_store, whole)
    assert resumed.digest == whole.digest
    assert draft.kept(CHECKPOINT) is None


def test_the_last_epochs_are_averaged_and_kept_where_that_is_better(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"transfer": {"epochs": 0}, "ema_momentum": 0.0}
    alone = train(store, config(**plain, average_epochs=0), stage="alone")
    update, seen = loop.Best.update, list[float]()

    def prefers_the_fourth(best: loop.Best, epoch: int, accuracy: float, loss: float) -> bool:
        seen.append(accuracy)
        return update(best, epoch, accuracy, loss) or len(seen) == 4

    monkeypatch.setattr(loop.Best, "update", prefers_the_fourth)
    averaged = train(store, config(**plain, average_epochs=2), stage="averaged")
    assert len(seen) == 4  # three epochs, and the mean of the last two
    assert averaged.facts["averaged_epochs"] == 2
    assert alone.facts["averaged_epochs"] == 0
    assert history(store, averaged) == history(store, alone)
    assert averaged.object("model.keras").sha256 != alone.object("model.keras").sha256


def test_the_mean_is_that_of_the_weights_and_goes_on_from_what_was_kept() -> None:
    weights_of = [[np.full((2, 3), value, np.float32)] for value in (1.0, 2.0, 6.0, 7.0)]
    whole, first = WeightAverage(), WeightAverage()
    for each in weights_of:
        whole.add(each)
    for each in weights_of[:2]:
        first.add(each)
    rest = WeightAverage(first.mean, first.count)
    for each in weights_of[2:]:
        rest.add(each)
    np.testing.assert_array_equal(whole.mean[0], np.full((2, 3), 4.0))
    np.testing.assert_array_equal(rest.mean[0], whole.mean[0])
    assert weights_of[0][0][0, 0] == 1.0  # what is added is left alone


def test_early_stopping_ends_the_phase_and_keeps_the_best(store: LocalStore) -> None:
    manifest = train(
        store,
        config(
            transfer={"epochs": 0},
            fine_tuning={"epochs": 30, "learning_rate": 1e-9},
            early_stopping_patience=2,
            schedule="plateau",
            ema_momentum=0.0,
        ),
    )
    assert manifest.facts["epochs"] < 30
    assert manifest.facts["best_epoch"] <= manifest.facts["epochs"] - 2


def test_the_weights_of_the_best_epoch_are_kept_not_those_of_the_last(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies, seen = iter((0.5, 0.9, 0.7)), list[list[Any]]()

    def measure(fitting: loop.Fitting) -> tuple[float, float]:
        seen.append(fitting.model.get_weights())
        return 1.0, next(accuracies)

    monkeypatch.setattr(loop.Fitting, "_measure", measure)
    manifest = train(store, config(transfer={"epochs": 0}, ema_momentum=0.0, average_epochs=0, online=()))
    assert manifest.facts["best_epoch"] == 2
    for kept, best in zip(weights(store, manifest), seen[1], strict=True):
        np.testing.assert_array_equal(kept, best)


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_without_val_images_every_epoch_counts(store: LocalStore, schedule: str) -> None:
    asked = config(
        transfer={"epochs": 0},
        fine_tuning={"epochs": 4, "learning_rate": 0.003},
        early_stopping_patience=1,
        schedule=schedule,
        **({"plateau_patience": 1} if schedule == "plateau" else {}),
        average_epochs=0,
    )
    made = run(parents(store, NUM_TRAIN, num_val=0), asked, Draft(store, inputs("train")))
    rows = history(store, made)
    assert len(rows) == made.facts["best_epoch"] == 4
    assert made.facts["best_val_accuracy"] is None
    assert not {"val_loss", "val_accuracy"} & rows[0].keys()
    if schedule == "plateau":
        np.testing.assert_allclose([row["learning_rate"] for row in rows], 0.003, rtol=1e-6)


def test_a_layer_that_is_not_there_is_told_before_anything_is_trained(store: LocalStore) -> None:
    asked = config(
        transfer={"epochs": 1}, fine_tuning={"epochs": 1, "from_layer": "block9"}, average_epochs=0
    )
    said: list[Any] = []
    with pytest.raises(ConfigError, match="has no layer 'block9'"):
        train(store, asked, progress=lambda *told: said.append(told))
    assert not said


def test_imagenet_weights_are_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="no ImageNet weights of cnn"):
        TrainConfig(initial_weights="imagenet")
    assert TrainConfig(initial_weights="imagenet", backbone="resnet50").backbone == "resnet50"


@pytest.mark.parametrize("first", ["mixed_float16", "float32"])
def test_a_checkpoint_goes_on_where_precision_is_another(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """As from a GPU that computes in float16, which scales the loss, to a CPU, and back."""
    import keras

    second = {"mixed_float16": "float32", "float32": "mixed_float16"}[first]
    policies = [first, second]

    def use_next(_: str, together: bool) -> Any:
        keras.mixed_precision.set_global_policy(policies.pop(0))
        return nullcontext()

    monkeypatch.setattr("hemaflow.tasks.train.stage.use_devices", use_next)

    def cut(done: int, total: int, message: str) -> None:
        if done == CUT_AT_STEP:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "PROGRESS_SECONDS", 0.0)
    try:
        with pytest.raises(Interrupted):
            train(store, config(), cut)
        made = train(store, config())
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert policies == []
    assert made.facts["optimizer_steps"] == 4 * STEPS_PER_EPOCH
    assert all(np.isfinite(row["loss"]) for row in history(store, made))


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam", "fine_tuning": {"epochs": 6, "learning_rate": 0.003}},
        {"optimizer": "adamw", "fine_tuning": {"epochs": 6, "learning_rate": 0.003}},
        {"optimizer": "lion", "fine_tuning": {"epochs": 6, "learning_rate": 0.0003}},
        {"optimizer": "sgd", "fine_tuning": {"epochs": 6, "learning_rate": 0.02}},
        {"loss": "focal"},
        {"class_weights": "none"},
        {"gradient_clip_norm": 0.5},
        {"fine_tuning": {"epochs": 6, "learning_rate": 0.003, "from_layer": "last-stage"}},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values() if not isinstance(value, dict)),
)
def test_every_way_of_training_lowers_the_loss(store: LocalStore, changes: dict[str, Any]) -> None:
    common = {"transfer": {"epochs": 0}, "fine_tuning": {"epochs": 6, "learning_rate": 0.003}}
    manifest = train(store, config(**(common | {"ema_momentum": 0.0} | changes)))
    assert manifest.facts["optimizer_steps"] == 6 * STEPS_PER_EPOCH
    rows = history(store, manifest)
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_gradients_are_clipped_to_the_norm(store: LocalStore) -> None:
    import numpy as np

    changes = {"optimizer": "sgd", "weight_decay": 0.0, "schedule": "constant", "ema_momentum": 0.0}
    changes |= {"transfer": {"epochs": 0}, "gradient_clip_norm": 1e-6, "batch_size": NUM_TRAIN}
    before = train(store, config(**changes, fine_tuning={"epochs": 0}), stage="before")
    after = train(store, config(**changes, fine_tuning={"epochs": 1, "learning_rate": 1.0}), stage="after")

    def kernel(manifest: Manifest) -> Any:
        return weights(store, manifest)[0]

    moved = np.linalg.norm(kernel(after) - kernel(before))
    assert 0 < moved < 2e-6  # a rate of 1, Nesterov's momentum: 1.9 times the gradient


def test_what_a_history_tells_is_the_mean_over_the_images(store: LocalStore) -> None:
    """The loss is weighted, the accuracy and the validation are not; focal takes soft labels."""
    import keras
    import numpy as np

    changes = {"optimizer": "sgd", "fine_tuning": {"epochs": 1, "learning_rate": 1e-12}, "dropout": 0.0}
    changes |= {"transfer": {"epochs": 0}, "loss": "focal", "online": (), "ema_momentum": 0.0}
    changes |= {"class_weights": "none", "schedule": "constant", "weight_decay": 0.0}
    plain = history(store, train(store, config(**changes), stage="plain"))[0]
    weighted = history(store, train(store, config(**changes | {"class_weights": "balanced"}), stage="w"))[0]
    assert plain["loss"] != weighted["loss"]
    assert plain["loss"] == pytest.approx(weighted["loss"], rel=0.05)
    for same in ("accuracy", "val_loss", "val_accuracy"):
        assert plain[same] == weighted[same]
    soft, said = np.array([[0.5, 0.5, 0.0]]), np.array([[0.2, 0.7, 0.1]])
    loss = keras.losses.CategoricalFocalCrossentropy(0.25, 2.0, label_smoothing=0.1)(soft, said)
    smooth = 0.9 * soft + 0.1 / 3
    assert float(loss) == pytest.approx(float((-0.25 * smooth * (1 - said) ** 2 * np.log(said)).sum()))


def test_a_phase_may_have_batches_of_its_own(store: LocalStore) -> None:
    told: list[tuple[int, int, str]] = []
    changes = {"transfer": {"epochs": 1, "batch_size": NUM_TRAIN}, "fine_tuning": {"epochs": 2}}
    manifest = train(store, config(**changes), lambda *content: told.append(content))
    assert manifest.facts["optimizer_steps"] == 1 + 2 * STEPS_PER_EPOCH
    assert told[-1][:2] == (13, 13)


def test_no_epochs_keep_the_initial_weights(store: LocalStore) -> None:
    manifest = train(store, config(transfer={"epochs": 0}, fine_tuning={"epochs": 0}))
    assert manifest.facts["optimizer_steps"] == 0
    assert history(store, manifest) == []
    assert weights(store, manifest)


def test_a_loss_that_is_no_number_ends_the_training(store: LocalStore) -> None:
    changes = {
        "optimizer": "sgd",
        "fine_tuning": {"epochs": 3, "learning_rate": 1e30},
        "transfer": {"epochs": 0},
    }
    with pytest.raises(StageError, match="Lower the learning rate"):
        train(store, config(**changes))


def test_a_weights_file_enters_the_key_by_its_content(tmp_path: Path, store: LocalStore) -> None:
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        (folder / "net.weights.h5").write_bytes(b"weights")
    one, other = (
        config(initial_weights=str(folder / "net.weights.h5")).resolved(store)
        for folder in (tmp_path, tmp_path / "a")
    )
    assert one.initial_weights != other.initial_weights
    assert one.key_document() == other.key_document()
    (tmp_path / "net.weights.h5").write_bytes(b"other")
    changed = config(initial_weights=str(tmp_path / "net.weights.h5")).resolved(store)
    assert changed.key_document() != one.key_document()


@pytest.mark.parametrize("path", ["absent.h5", "weights.pkl"])
def test_weights_that_cannot_be_used_are_a_mistake(tmp_path: Path, store: LocalStore, path: str) -> None:
    (tmp_path / "weights.pkl").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"an existing \.h5 or \.keras file"):
        config(initial_weights=str(tmp_path / path)).resolved(store)
