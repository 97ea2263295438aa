"""Every registered backbone: built, trained a step, saved, loaded in safe mode, packed, and run on its own.

The small ones are tried in every run of the tests, all of them with `pytest -m zoo` (up to 1.4 GB of weights:
more than 10 GiB of memory, 6 GB of disk, half an hour on two cores).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.members import MEMBERS, SMALL
from hemaflow.infra.errors import ConfigError
from hemaflow.tasks.model.backbones import BACKBONES, Backbone, build_backbone, preprocess
from hemaflow.tasks.model.network import assemble, build_network, load_backbone_weights, unfreeze
from hemaflow.tasks.model.saving import save_model
from hemaflow.tasks.submit.package import model_code, pack, run_submission

pytestmark = pytest.mark.slow

CLASSES = ("blue", "green", "red")
PIXELS = 32
SUBMITTED = [name for name in BACKBONES if name not in SMALL or name in ("cnn", "convnext-tiny")]
"""Backbones whose submission is run. A process loads the others in safe mode as this one does; ConvNeXt has
layers of its own."""


@pytest.fixture
def _nothing_of_another_network_is_kept() -> Iterator[None]:
    import keras

    yield
    keras.utils.clear_session()


def pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, PIXELS, PIXELS, 3), dtype=np.uint8)


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("_nothing_of_another_network_is_kept")
@pytest.mark.parametrize("name", MEMBERS)
def test_every_backbone_learns_and_is_submitted(name: str, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    row = BACKBONES[name]
    body, head = build_network(name, None, PIXELS, len(CLASSES), (), 0.0)
    assert body.count_params() == row.num_parameters
    unfreeze(body, row.last_stage, train_batch_norm=True)
    first = [layer.name for layer in body.layers].index(row.last_stage)
    assert 0.4 < first / len(body.layers) < 0.95
    assert [layer.trainable for layer in (body.layers[first - 1], body.layers[first])] == [False, True]
    # It begins with what is still at the higher resolution, before the convolution that halves it.
    later = [layer for layer in body.layers[first + 3 :] if not isinstance(layer, keras.layers.ZeroPadding2D)]
    maps = [layer.output.shape for layer in later if len(layer.output.shape) == 4]
    assert {shape[1] for shape in maps} == {body.output_shape[1]}
    unfreeze(body, 0, train_batch_norm=True)

    trained = assemble(name, body, head, PIXELS, to_train=True)
    # A small step: statistics of four pictures are not those that BatchNorm has moved to after it.
    optimizer = keras.optimizers.SGD(1e-3, clipnorm=1.0)
    trained.compile(optimizer=optimizer, loss="categorical_crossentropy", jit_compile=False, run_eagerly=True)
    before = [variable.numpy() for variable in (body.trainable_variables[0], head.trainable_variables[0])]
    # Four: with two, BatchNorm makes 1 and -1 of what is a pixel large, whatever it was: no gradient is left.
    labels = np.eye(len(CLASSES), dtype=np.float32)[[0, 1, 2, 0]]
    assert np.isfinite(trained.train_on_batch(pictures(4), labels))
    after = [variable.numpy() for variable in (body.trainable_variables[0], head.trainable_variables[0])]
    assert all(not np.array_equal(one, other) for one, other in zip(before, after, strict=True))

    model = assemble(name, body, head, PIXELS, to_train=False)
    images = pictures(4, seed=1)
    expected = np.array(model(images))
    np.testing.assert_allclose(expected.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(expected, np.array(model(images.astype(np.float32))), atol=1e-6)
    path = tmp_path / "model.keras"
    save_model(model, path)
    del trained, model, body, head, later
    keras.utils.clear_session()
    loaded = keras.saving.load_model(path, compile=False, safe_mode=True)
    np.testing.assert_allclose(np.array(loaded(images)), expected, atol=1e-5)
    del loaded
    keras.utils.clear_session()

    if name not in SUBMITTED:
        return
    np.save(tmp_path / "images.npy", images)
    pack(tmp_path / "submission.zip", model_code(CLASSES, ("identity",), 4), path)
    path.unlink()  # of the largest, each copy takes 1.4 GB
    outcome = run_submission(tmp_path / "submission.zip", tmp_path / "images.npy")
    (tmp_path / "submission.zip").unlink()
    np.testing.assert_array_equal(outcome.labels, expected.argmax(1))
    assert outcome.classes == CLASSES


def keras_preprocessing(row: Backbone) -> Any:
    """What keras.applications itself does to the pixels of a network."""
    import keras

    builder = getattr(keras.applications, row.application)
    return importlib.import_module(builder.__module__).preprocess_input


@pytest.mark.parametrize("name", [name for name, row in BACKBONES.items() if row.application])
def test_pixels_reach_each_backbone_as_keras_would_have_them(name: str) -> None:
    import keras

    row = BACKBONES[name]
    inputs = keras.Input((PIXELS, PIXELS, 3))
    entering = keras.Model(inputs, preprocess(inputs * 1.0, row.preprocessing))
    pixels = pictures(2).astype(np.float32)
    expected = keras_preprocessing(row)(pixels.copy())
    np.testing.assert_allclose(np.array(entering(pixels)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_preprocessing_is_saved_with_the_model_and_loads_in_safe_mode(name: str, tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((PIXELS, PIXELS, 3))
    model = keras.Model(inputs, preprocess(inputs, BACKBONES[name].preprocessing))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    pixels = pictures(2)
    np.testing.assert_array_equal(np.array(loaded(pixels)), np.array(model(pixels)))


def test_what_a_network_does_itself_is_in_it() -> None:
    """Networks that take 0..255 begin with layers that bring pixels to a small range, but for our own."""
    import keras

    for name in (
        "mobilenetv3-small",
        "efficientnet-b0",
        "efficientnetv2-b0",
        "efficientnetv2-s",
        "convnext-tiny",
    ):
        body = build_backbone(name, PIXELS, None)
        scaling = (keras.layers.Rescaling, keras.layers.Normalization)
        last = [layer for layer in body.layers[:5] if isinstance(layer, scaling)][-1]
        scaled = keras.Model(body.input, last.output)
        ends = [float(np.abs(scaled(np.full((1, PIXELS, PIXELS, 3), grey))).max()) for grey in (0.0, 255.0)]
        assert 0.9 < max(ends) < 6.0, name


def test_an_efficientnet_of_a_file_is_the_one_that_keras_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights="imagenet" Keras builds another network than without: ours is that one, always."""
    import keras
    from keras.src.utils import file_utils

    from hemaflow.infra.store.base import file_sha256

    path = tmp_path / "b0.weights.h5"
    keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(PIXELS, PIXELS, 3)
    ).save_weights(path)
    own = build_backbone("efficientnet-b0", PIXELS, None)
    load_backbone_weights(own, str(path), file_sha256(path))
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(path))
    downloaded = build_backbone("efficientnet-b0", PIXELS, "imagenet")
    pixels = pictures(2).astype(np.float32)
    np.testing.assert_allclose(np.array(own(pixels)), np.array(downloaded(pixels)), atol=1e-5)


def test_images_too_small_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"at least 32 pixels\n.*input_size_pixels=32"):
        build_backbone("mobilenetv2", 31, None)
