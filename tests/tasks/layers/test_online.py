"""The online layers: what a config may say, that Keras takes it, and what they do to a training batch."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from hemaflow.tasks.layers.online import _UNSEEDED, NEEDS_ONE, ONLINE_LAYERS, OnlineLayer, augment_online

pytestmark = pytest.mark.slow

SIZE = 24

FACTORS: dict[str, dict[str, Any]] = {
    "GaussianNoise": {"stddev": 0.1},
    "RandomBrightness": {"factor": [0.1, 0.3]},
    "RandomColorDegeneration": {"factor": 0.8},
    "RandomColorJitter": {"brightness_factor": 0.2, "saturation_factor": [0.3, 0.7]},
    "RandomContrast": {"factor": 0.5},
    "RandomElasticTransform": {"factor": [1, 1], "scale": 0.9},
    "RandomErasing": {"factor": [1, 1]},
    "RandomGaussianBlur": {"factor": [1, 1], "kernel_size": 5, "sigma": [0.5, 1.0]},
    "RandomGrayscale": {"factor": 1.0},
    "RandomHue": {"factor": 0.5},
    "RandomInvert": {"factor": [1, 1]},
    "RandomPerspective": {"factor": [1, 1], "scale": 0.5},
    "RandomPosterization": {"factor": 3},
    "RandomRotation": {"factor": 0.5},
    "RandomSaturation": {"factor": [0.0, 0.2]},
    "RandomSharpness": {"factor": [0.8, 1.0]},
    "RandomShear": {"x_factor": 0.5},
    "RandomTranslation": {"height_factor": 0.3, "width_factor": 0.3},
    "RandomZoom": {"height_factor": [-0.4, -0.2]},
    "Solarization": {"threshold_factor": 0.5},
}
"""For each layer that needs some, factors at which it does something."""


def online(name: str, **changes: Any) -> OnlineLayer:
    return OnlineLayer.model_validate({"name": name, "factors": FACTORS.get(name, {})} | changes)


def cells(count: int = 8) -> NDArray[np.float32]:
    """Grey values 40..200 that change smoothly, and a little noise."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 180, SIZE)[:, None, None] + np.array([0, 10, -10])
    pixels = np.broadcast_to(ramp, (count, SIZE, SIZE, 3)) + rng.integers(0, 11, (count, SIZE, SIZE, 3))
    return np.rint(pixels).astype(np.float32)


def model(*layers: OnlineLayer, seed: int = 0) -> Any:
    import keras

    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, augment_online(inputs, layers, seed))


def compiled(*layers: OnlineLayer, seed: int = 0) -> Any:
    """The layers in a graph that takes batches of any size, as training runs them."""
    import tensorflow as tf

    built = model(*layers, seed=seed)
    signature = [tf.TensorSpec((None, SIZE, SIZE, 3), tf.uint8)]
    graph = tf.function(lambda pixels: built(tf.cast(pixels, tf.float32), training=True), signature)
    return lambda pixels: graph(pixels.astype(np.uint8)).numpy()


@pytest.mark.parametrize("name", ONLINE_LAYERS)
def test_every_layer_changes_a_training_batch_within_its_range_and_as_seeded(name: str) -> None:
    pixels = cells()
    changing = compiled(online(name))
    first, second = changing(pixels), changing(pixels)
    assert first.dtype == np.float32
    assert first.shape == pixels.shape
    assert np.isfinite(first).all()
    assert first.min() >= 0
    assert first.max() <= 255
    assert np.abs(first - pixels).max() > 1
    np.testing.assert_array_equal(compiled(online(name))(pixels), first)
    if name not in (*_UNSEEDED, "RandomGrayscale", "RandomInvert", "RandomPosterization"):
        assert not np.array_equal(first, second)
        assert not np.array_equal(compiled(online(name), seed=1)(pixels), first)
    assert changing(pixels[:3]).shape == (3, SIZE, SIZE, 3)


@pytest.mark.parametrize("name", ONLINE_LAYERS)
def test_every_layer_leaves_images_alone_that_are_not_trained_on(name: str) -> None:
    pixels = cells()
    np.testing.assert_array_equal(np.array(model(online(name))(pixels, training=False)), pixels)


def test_a_probability_is_drawn_for_each_image() -> None:
    pixels = cells(200)
    changed = compiled(online("RandomInvert", probability=0.3))(pixels)
    share = np.mean([not np.array_equal(one, other) for one, other in zip(changed, pixels, strict=True)])
    assert 0.2 < share < 0.4
    assert np.array_equal(compiled(online("RandomInvert", probability=0.0))(pixels), pixels)


def test_layers_compute_in_float32_whatever_the_policy() -> None:
    import keras

    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        half = np.array(model(online("Equalization"), online("RandomRotation"))(cells(), training=True))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    whole = np.array(model(online("Equalization"), online("RandomRotation"))(cells(), training=True))
    np.testing.assert_array_equal(half, whole)


def test_one_number_means_the_same_for_every_layer() -> None:
    # Keras itself makes −0.8..0.8 of it: colours away from grey.
    grey = compiled(online("RandomColorDegeneration", factors={"factor": 0.8}))(cells(100))
    spread, before = np.ptp(grey.mean((1, 2)), axis=1), np.ptp(cells(100).mean((1, 2)), axis=1)
    assert (spread <= before + 0.1).all()
    kept = compiled(online("RandomPosterization"))(cells())
    assert (kept % 32 == 0).all()  # 3 of 8 bits


# What has one value that works here (an image has three channels and 256 grey values), or is filled in.
NOT_OFFERED = {"seed", "value_range", "bins", "data_format", "bounding_box_format"}


@pytest.mark.parametrize("name", ONLINE_LAYERS)
def test_table_is_that_of_keras(name: str) -> None:
    import keras

    parameters = inspect.signature(getattr(keras.layers, name)).parameters
    for form in ONLINE_LAYERS[name].values():
        if form.only_with:
            other, values = form.only_with
            assert (None in values) == (parameters[other].default in values)
    taken = {
        parameter.name: parameter.default is inspect.Parameter.empty
        for parameter in parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and parameter.name not in NOT_OFFERED
    }
    known = ONLINE_LAYERS[name]
    assert set(known) == set(taken)
    assert {factor for factor, required in taken.items() if required} <= {
        factor for factor, form in known.items() if form.required
    }


def test_augmix_still_draws_where_no_seed_reaches() -> None:
    import keras

    chains = [keras.layers.AugMix(seed=1)(cells(), training=True) for _ in range(4)]
    assert any(not np.array_equal(np.array(chains[0]), np.array(chain)) for chain in chains[1:])


def test_no_random_layer_of_keras_is_forgotten() -> None:
    import keras

    base = keras.layers.RandomFlip.__mro__[1]
    there = {
        name
        for name in dir(keras.layers)
        if inspect.isclass(layer := getattr(keras.layers, name)) and issubclass(layer, base)
    }
    assert there - set(ONLINE_LAYERS) == {
        "AugMix", "CenterCrop", "CutMix", "MaxNumBoundingBoxes", "MixUp", "RandomCrop", "Resizing",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "factors", "said"),
    [
        ("RandomFlop", {}, "Did you mean 'RandomFlip'"),
        ("RandomRotation", {"factr": 0.1}, "Did you mean 'factor'"),
        ("RandomRotation", {"factor": 1.5}, r"expected factor to be a number, 0\.\.1"),
        ("RandomRotation", {}, "RandomRotation needs factor"),
        ("RandomGaussianBlur", {"kernel_size": 4}, "one of 3, 5, 7, 9, 11"),
        ("RandomPosterization", {"factor": 9}, r"an integer, 1\.\.8"),
        ("GaussianNoise", {"stddev": -0.1}, r"a number, 0\.\.1"),
        ("Equalization", {"bins": 3}, "It takes none"),
        ("RandomShear", {"fill_mode": "wrap"}, "needs x_factor or y_factor"),
        ("RandomColorJitter", {}, "needs brightness_factor or"),
    ],
)
def test_a_wrong_config_says_what_is_right(name: str, factors: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        OnlineLayer(name=name, factors=factors)


@pytest.mark.parametrize(("name", "needed"), NEEDS_ONE.items())
def test_what_is_said_to_be_needed_is(name: str, needed: tuple[str, ...]) -> None:
    import keras

    layer = getattr(keras.layers, name)()
    np.testing.assert_allclose(np.array(layer(cells(), training=True)), cells(), atol=0.5)
    assert set(needed) <= set(ONLINE_LAYERS[name])
