"""Grad-CAM: the heat is where the network looks, for any backbone, and the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.members import MEMBERS
from hemaflow.tasks.model.backbones import BACKBONES, preprocess
from hemaflow.tasks.model.network import assemble, build_network
from hemaflow.tasks.predict.grad_cam import BATCH_SIZE, grad_cam
from hemaflow.tasks.report.html import overlay

pytestmark = pytest.mark.slow

SIZE = 32


def patch_model(folder: Path) -> Any:
    """Return a saved classifier of hand-set weights: class 0 is brightness anywhere, class 1 is darkness.

    Its feature maps, 8 × 8, are the mean brightness of each square of 4 × 4 pixels and the lack of it.
    """
    import keras

    inner = keras.Input((SIZE, SIZE, 3))
    convolution = keras.layers.Conv2D(2, 4, strides=4, activation="relu")
    backbone = keras.Model(inner, convolution(inner), name="backbone")
    kernel = np.full((4, 4, 3, 2), 1 / 48, np.float32) * np.array([1, -1], np.float32)
    convolution.set_weights([kernel, np.array([0, 1], np.float32)])
    features = keras.Input(backbone.output_shape[1:])
    dense = keras.layers.Dense(2, "softmax")
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    head = keras.Model(features, dense(pooled), name="head")
    dense.set_weights([np.array([[60, -60], [-60, 60]], np.float32), np.zeros(2, np.float32)])
    pixels = keras.Input((SIZE, SIZE, 3))
    scaled = keras.layers.Rescaling(1 / 255)(pixels)
    keras.Model(pixels, head(backbone(scaled))).save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)


def patches(corners: list[tuple[int, int]]) -> NDArray[np.uint8]:
    """Return black images with one bright patch of 8 × 8 pixels each."""
    images = np.zeros((len(corners), SIZE, SIZE, 3), np.uint8)
    for image, (top, left) in zip(images, corners, strict=True):
        image[top : top + 8, left : left + 8] = 255
    return images


def test_the_heat_is_where_the_patch_is(tmp_path: Path) -> None:
    corners = [(0, 0), (4, 20), (24, 8), (12, 12), (20, 24), (0, 24), (8, 0), (16, 16), (24, 24), (20, 4)]
    images = patches(corners)  # more than a batch
    heat = grad_cam(patch_model(tmp_path), images, [0] * len(images))
    assert heat.shape == (10, SIZE, SIZE)
    assert heat.dtype == np.float32
    np.testing.assert_allclose(heat.max((1, 2)), 1)
    assert heat.min() >= 0
    for place, (top, left) in zip(heat, corners, strict=True):
        inside = np.zeros((SIZE, SIZE), bool)
        inside[top : top + 8, left : left + 8] = True
        assert place[inside].mean() > 0.7
        near = np.zeros_like(inside)  # half a square of the features: as far as stretching them smears
        near[max(0, top - 2) : top + 10, max(0, left - 2) : left + 10] = True
        assert place[~near].max() == 0


def test_the_heat_of_another_class_is_elsewhere_though_the_model_is_sure(tmp_path: Path) -> None:
    model = patch_model(tmp_path)
    images = patches([(8, 8)])
    assert np.asarray(model(images.astype(np.float32)))[0].max() == 1.0  # its softmax has no gradient
    bright, dark = (grad_cam(model, images, [label])[0] for label in (0, 1))
    assert bright[12, 12] > 0.8
    assert bright[28, 28] == 0
    assert dark[12, 12] == 0
    assert dark[28, 28] > 0.8


def test_colours_that_preprocessing_turns_around_are_looked_at_as_the_network_sees_them() -> None:
    import keras

    pixels = keras.Input((SIZE, SIZE, 3))
    inner = keras.Input((SIZE, SIZE, 3))
    only_first = keras.layers.Conv2D(1, 4, strides=4, activation="relu")
    backbone = keras.Model(inner, only_first(inner), name="backbone")
    kernel = np.zeros((4, 4, 3, 1), np.float32)
    kernel[:, :, 0] = 1 / 16
    only_first.set_weights([kernel, np.zeros(1, np.float32)])
    features = keras.Input(backbone.output_shape[1:])
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    dense = keras.layers.Dense(2, "softmax")
    head = keras.Model(features, dense(pooled), name="head")
    dense.set_weights([np.array([[1, -1]], np.float32), np.zeros(2, np.float32)])
    model = keras.Model(pixels, head(backbone(preprocess(pixels, "caffe"))))
    image = np.full((1, SIZE, SIZE, 3), 100, np.uint8)
    image[0, :8, :8, 0] = 250
    image[0, 24:, 24:, 2] = 250
    [heat] = grad_cam(model, image, [0])  # ResNet takes BGR: the first channel is blue
    assert heat[28, 28] == 1
    assert heat[4, 4] < 0.1


def test_an_image_that_nothing_speaks_for_has_no_heat(tmp_path: Path) -> None:
    black = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    assert grad_cam(patch_model(tmp_path), black, [0]).max() == 0


def test_a_map_does_not_depend_on_what_comes_with_it(tmp_path: Path) -> None:
    model = patch_model(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3), np.uint8)
    classes = [number % 2 for number in range(11)]
    together = grad_cam(model, images, classes)
    assert together.tobytes() == grad_cam(model, images, classes).tobytes()
    np.testing.assert_array_equal(together[10:], grad_cam(model, images[10:], classes[10:]))
    assert grad_cam(model, images[:0], []).shape == (0, SIZE, SIZE)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_backbone_can_be_explained_as_it_is_saved(name: str, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    body, head = build_network(name, None, 64, 5, (), 0.1)
    built = assemble(name, body, head, 48, to_train=False)
    images = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), np.uint8)
    # As many as Grad-CAM takes at once: a deep network that learnt nothing makes much of a rounding.
    batch = np.repeat(images, BATCH_SIZE, axis=0).astype(np.float32)
    resized = keras.layers.Resizing(64, 64)(keras.ops.convert_to_tensor(batch))
    features = np.asarray(body(preprocess(resized, BACKBONES[name].preprocessing), training=False))[0]
    pooled = features.mean((0, 1))
    # Class 3 is what this image has; class 2 is the opposite, and class 0 is nothing.
    kernel = np.zeros((len(pooled), 5), np.float32)
    kernel[:, 3], kernel[:, 2] = pooled, -pooled
    head.layers[-1].set_weights([kernel, np.zeros(5, np.float32)])
    built.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    own, other, nothing = grad_cam(model, np.repeat(images, 3, axis=0), [3, 2, 0])
    raw = np.maximum(features @ pooled, 0)  # what Grad-CAM is for a head that is linear
    expected = np.asarray(keras.ops.image.resize(raw[..., None], (48, 48)))[..., 0]
    np.testing.assert_allclose(own, expected / expected.max(), atol=1e-3)
    assert not np.array_equal(other, own)
    assert nothing.max() == 0


def test_the_overlay_is_brightest_where_the_heat_is() -> None:
    image = np.full((8, 8, 3), (200, 40, 120), np.uint8)
    heat = np.zeros((8, 8), np.float32)
    heat[2:4, 2:4] = 1
    covered = overlay(image, heat)
    assert covered.dtype == np.uint8
    assert covered.shape == image.shape
    cold, hot = covered[0, 0].astype(int), covered[3, 3].astype(int)
    assert (covered[4:] == cold).all()
    assert hot.sum() > cold.sum() + 200
    assert hot[0] > hot[2]  # yellow
    assert np.ptp(cold) < 10  # the image is in grey
