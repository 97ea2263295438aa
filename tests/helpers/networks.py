"""A backbone of two layers, for tests of what is around a network: TensorFlow traces it sooner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from hemaflow.tasks.model.backbones import BACKBONES, Backbone, Shape, Weights

TWO_LAYERS = "two-layers"


class TwoLayers(Backbone):
    """Two convolutions, each of which halves the resolution, with BatchNorm between them."""

    def build(self, shape: Shape, weights: Weights) -> object:
        import keras

        inputs = keras.Input(shape)
        x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name="first")(inputs)
        x = keras.layers.BatchNormalization(momentum=0.9, name="normalized")(x)
        x = keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="second")(x)
        return keras.Model(inputs, x, name="two_layers")


@contextmanager
def two_layers_registered() -> Iterator[None]:
    """Have the backbone among the registered ones."""
    len(BACKBONES)  # the others are registered now
    own = TwoLayers(
        application="",
        preprocessing="tf",
        native_pixels=24,
        num_parameters=1416,
        last_stage="second",
        source="",
        min_pixels=16,
    )
    with patch.dict(BACKBONES._entries, {TWO_LAYERS: own}):
        yield


@pytest.fixture(scope="module")
def two_layers() -> Iterator[str]:
    """The name of the backbone, which is registered while the tests of a file run."""
    with two_layers_registered():
        yield TWO_LAYERS
