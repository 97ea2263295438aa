"""Our own small network of 3x3 convolutions, after VGG: for a CPU and for training from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hemaflow.tasks.model.backbones import BACKBONES, Backbone, Shape, Weights

if TYPE_CHECKING:
    import keras

FILTERS = (16, 32, 64, 96, 128)
"""Filters of both convolutions of each block; the resolution is halved between blocks."""


class Cnn(Backbone):
    """Two convolutions with BatchNorm in each block, after VGG (arXiv:1409.1556)."""

    def build(self, shape: Shape, weights: Weights) -> keras.Model:
        """Return the network with random weights; it has no others."""
        import keras

        inputs = x = keras.Input(shape)
        for block, filters in enumerate(FILTERS, start=1):
            for layer in (1, 2):
                x = keras.layers.Conv2D(
                    filters, 3, padding="same", use_bias=False, name=f"block{block}_conv{layer}"
                )(x)
                x = keras.layers.BatchNormalization(momentum=0.9, name=f"block{block}_bn{layer}")(x)
                x = keras.layers.ReLU(name=f"block{block}_relu{layer}")(x)
            if block < len(FILTERS):
                x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
        return keras.Model(inputs, x, name="cnn")


BACKBONES.register("cnn")(
    Cnn(
        application="",
        preprocessing="tf",
        native_pixels=96,
        num_parameters=470_832,
        last_stage="block5_conv1",
        source="five blocks of two 3x3 convolutions, after VGG, arXiv:1409.1556",
        min_pixels=16,
    )
)
