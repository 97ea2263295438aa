"""The table of backbones: how each is built, what pixels it wants, where its layers come from.

A backbone maps float32[B, S, S, 3] to feature maps float32[B, s, s, F]. Which pixel values it expects is a
column of the table, so that nothing else needs to know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from infra.errors import nearest

Preprocessing = Literal["none", "minus-one-to-one"]


@dataclass(frozen=True)
class Backbone:
    """One row of the table.

    Attributes:
        application: Name of the builder in `keras.applications`, or "" for our own network.
        preprocessing: What is done to pixels in 0..255 before it: nothing where the network rescales inside.
        native_pixels: The input size that its ImageNet weights were made at.
        source: Where it is described.
        arguments: What else its builder is given.
    """

    application: str
    preprocessing: Preprocessing
    native_pixels: int
    source: str
    arguments: dict[str, Any] = field(default_factory=dict)


BACKBONES: dict[str, Backbone] = {
    "cnn": Backbone(
        "", "minus-one-to-one", 96, "five blocks of two 3x3 convolutions, after VGG, arXiv:1409.1556"
    ),
    "mobilenetv2-0.35": Backbone("MobileNetV2", "minus-one-to-one", 224, "arXiv:1801.04381", {"alpha": 0.35}),
    "mobilenetv2": Backbone("MobileNetV2", "minus-one-to-one", 224, "arXiv:1801.04381"),
    "efficientnetv2-b0": Backbone("EfficientNetV2B0", "none", 224, "arXiv:2104.00298"),
    "efficientnetv2-s": Backbone("EfficientNetV2S", "none", 384, "arXiv:2104.00298"),
}


def check_backbone(name: str) -> str:
    """Return the name of a known backbone. Raises ValueError naming the nearest one."""
    if name not in BACKBONES:
        raise ValueError(f"There is no backbone {name!r}. {nearest(name, BACKBONES)}")
    return name


def build_backbone(name: str, input_pixels: int, weights: Literal["imagenet"] | None) -> Any:
    """Return the keras.Model of a backbone without its top, for inputs of `input_pixels` squared."""
    import keras

    row = BACKBONES[name]
    shape = (input_pixels, input_pixels, 3)
    if not row.application:
        return _cnn(shape)
    builder = getattr(keras.applications, row.application)
    return builder(include_top=False, weights=weights, input_shape=shape, **row.arguments)


def _cnn(shape: tuple[int, int, int]) -> Any:
    """Return the hand-built baseline: 0.59 M parameters, halving the resolution four times."""
    import keras

    inputs = x = keras.Input(shape)
    for block, filters in enumerate((16, 32, 64, 96, 128), start=1):
        for layer in (1, 2):
            x = keras.layers.Conv2D(
                filters, 3, padding="same", use_bias=False, name=f"block{block}_conv{layer}"
            )(x)
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"block{block}_bn{layer}")(x)
            x = keras.layers.ReLU(name=f"block{block}_relu{layer}")(x)
        if block < 5:
            x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return keras.Model(inputs, x, name="cnn")
