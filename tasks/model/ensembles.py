"""An ensemble is one Keras model whose output is the mean of its members' probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ENSEMBLE = "ensemble"
"""What the backbone of an ensemble is called, which has none of its own."""


def average(models: Sequence[Any]) -> Any:
    """Return the Keras model whose answer is the mean of those of classifiers of the same input."""
    import keras

    pixels = keras.Input(models[0].input_shape[1:], name="pixels")
    answers = []
    for number, model in enumerate(models, start=1):
        member = keras.Model(model.input, model.output, name=f"member{number}")
        answers.append(member(pixels, training=False))
    # In float32 whatever the policy, as the members' own softmax is: half precision would tie close classes.
    mean = keras.layers.Average(name="mean", dtype="float32")(answers)
    return keras.Model(pixels, mean, name=ENSEMBLE)


def members_of(model: Any) -> list[Any]:
    """Return the members of an ensemble as they are in it; none of any other model."""
    import keras

    # By what it is made of: an ensemble that is a member of another is called as its place in that.
    if not isinstance(model.layers[-1], keras.layers.Average):
        return []
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]
