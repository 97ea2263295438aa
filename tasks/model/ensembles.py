"""An ensemble is one Keras model whose output is the mean of its members' probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

ENSEMBLE = "ensemble"
"""What the facts of an ensemble name as its backbone; it has none of its own."""


def average(models: Sequence[keras.Model]) -> keras.Model:
    """Return a model that averages what classifiers give, each float32[B, H, W, 3] → float32[B, C]."""
    import keras

    pixels = keras.Input(models[0].input_shape[1:], name="pixels")
    probabilities = []
    for number, model in enumerate(models, start=1):
        member = keras.Model(model.input, model.output, name=f"member{number}")
        probabilities.append(member(pixels, training=False))
    # In float32 under every policy, as the members' own softmax: half precision would tie close classes.
    mean = keras.layers.Average(name="mean", dtype="float32")(probabilities)
    return keras.Model(pixels, mean, name=ENSEMBLE)


def members_of(model: keras.Model) -> list[keras.Model]:
    """Return the members of an ensemble; an empty list for any other model."""
    import keras

    # Not by its name: an ensemble that is a member of another one is called member1, member2 …
    if not isinstance(model.layers[-1], keras.layers.Average):
        return []
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]
