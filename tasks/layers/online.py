"""Online augmentation: random layers of `keras.layers` in front of the network while it trains.

They map float32[B, H, W, 3] in 0..255 to the same, on the device that trains and on any Keras backend, and
are not in the saved model. The table needs no Keras; its names and limits are those of Keras 3.15.1, and a
test compares it with the layers there.

Not in the table: CutMix and MixUp, which change the labels, and a model does not receive its labels (augment
has both); AugMix, which in Keras 3.15.1 draws its operations from Python's own generator when the graph is
built: the same for a whole training, and others after a restart (augment has it, too); RandomCrop, CenterCrop
and Resizing, which change the size.

Speed in images per second, 96 px in batches of 64, on one shared x86-64 core: RandAugment 150 and CLAHE 190,
slower than a small network; RandomErasing 1,600; shifts, turns, shears, zooms, hue and saturation 2,300 to
3,000; equalization, flips, contrast and blur 2,800 to 8,100; brightness 59,000.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hemaflow.tasks.layers.schema import Factor, Layer

if TYPE_CHECKING:
    import keras

_ANY = math.inf
_FILL_VALUE = Factor(
    "number", "grey value where fill_mode is constant", high=255, only_with=("fill_mode", ("constant",))
)
_INTERPOLATION = Factor("choice", "method", choices=("bilinear", "nearest"))
_FILL = {
    "fill_mode": Factor(
        "choice", "what lies beyond the edge", choices=("reflect", "wrap", "constant", "nearest")
    ),
    "fill_value": _FILL_VALUE,
    "interpolation": _INTERPOLATION,
}


def _span(meaning: str, low: float = 0.0, required: bool = False) -> Factor:
    return Factor("span", meaning, low=low, required=required)


# Keras draws a probability from the span for each image, and then whether to act: 1 alone is half of them.
_PROBABILITY = _span("probability of acting on an image; a list [p, p] for just p")
_BRIGHTNESS = _span("of the full range of brightness", low=-1.0, required=True)
_CONTRAST = Factor("margins", "contrast from 1 − the first to 1 + the second", required=True)
_SATURATION = _span("0 grey, 0.5 unchanged, 1 fully saturated", required=True)
_HUE = _span("of half a turn of the hue", required=True)

ONLINE_LAYERS: Mapping[str, Mapping[str, Factor]] = {
    "AutoContrast": {},
    "ContrastLimitedAdaptiveHistogramEqualization": {
        "clip_limit": Factor("number", "most that a bin may hold, in means of the bins", low=1.0, high=_ANY),
        "tile_grid_size": Factor("size", "tiles down and across", low=1, high=_ANY),
    },
    "Equalization": {},
    "GaussianNoise": {
        "stddev": Factor("number", "deviation, of the full range of grey values", required=True),
    },
    "RandAugment": {
        "num_ops": Factor("integer", "operations, the same for all images of a batch", low=1, high=_ANY),
        "factor": _span("strength"),
        "interpolation": _INTERPOLATION,
    },
    "RandomBrightness": {"factor": _BRIGHTNESS},
    "RandomColorDegeneration": {"factor": _span("0 unchanged, 1 grey", required=True)},
    "RandomColorJitter": {
        "brightness_factor": _span("of the full range of brightness", low=-1.0),
        "contrast_factor": Factor("margins", "contrast from 1 − the first to 1 + the second"),
        "saturation_factor": _span("0 grey, 0.5 unchanged, 1 fully saturated"),
        "hue_factor": _span("of half a turn of the hue"),
    },
    "RandomContrast": {"factor": _CONTRAST},
    "RandomElasticTransform": {"factor": _PROBABILITY, "scale": _span("strength"), **_FILL},
    "RandomErasing": {
        "factor": _PROBABILITY,
        "scale": Factor("pair", "of the image's size, of the erased patch"),
        "fill_value": Factor("number", "grey value of the patch; noise where left out", high=255),
    },
    "RandomFlip": {
        "mode": Factor("choice", "axis", choices=("horizontal", "vertical", "horizontal_and_vertical"))
    },
    "RandomGaussianBlur": {
        "factor": _PROBABILITY,
        "kernel_size": Factor("integer", "pixels", choices=(3, 5, 7, 9, 11)),
        "sigma": _span("pixels"),
    },
    "RandomGrayscale": {"factor": Factor("number", "probability of acting on an image")},
    "RandomHue": {"factor": _HUE},
    "RandomInvert": {"factor": _PROBABILITY},
    "RandomPerspective": {
        "factor": _PROBABILITY,
        "scale": Factor("number", "shift of the corners, of the image's size"),
        "fill_value": Factor("number", "grey value beyond the edge", high=255),
        "interpolation": _INTERPOLATION,
    },
    "RandomPosterization": {
        "factor": Factor("integer", "bits kept of each channel", low=1, high=8, required=True)
    },
    "RandomRotation": {"factor": _span("of a full turn", low=-1.0, required=True), **_FILL},
    "RandomSaturation": {"factor": _SATURATION},
    "RandomSharpness": {"factor": _span("0 blurred, 0.5 unchanged, 1 sharpened", required=True)},
    "RandomShear": {
        "x_factor": _span("of the image's width"),
        "y_factor": _span("of the image's height"),
        **_FILL,
    },
    "RandomTranslation": {
        "height_factor": _span("of the image's height", low=-1.0, required=True),
        "width_factor": _span("of the image's width", low=-1.0, required=True),
        **_FILL,
    },
    "RandomZoom": {
        # At −1 the image would be infinitely near.
        "height_factor": _span("of the height; negative is nearer", low=-0.99, required=True),
        "width_factor": _span("of the width; the same as the height where left out", low=-0.99),
        **_FILL,
    },
    "Solarization": {
        "addition_factor": _span("of the full range, added first"),
        "threshold_factor": _span("of the full range, above which to invert", required=True),
    },
}
"""Layer of `keras.layers` → its factors. Others (value_range, bins …) are fixed by the code."""
CODE_TABLES = ("ONLINE_LAYERS",)

NEEDS_ONE: Mapping[str, tuple[str, ...]] = {
    "RandomColorJitter": ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor"),
    "RandomShear": ("x_factor", "y_factor"),
}
"""Layer → factors of which at least one must be given: without any the layer changes nothing."""

_UNSEEDED = ("AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "Equalization")
_FULL_RANGE = (0, 255)


class OnlineLayer(Layer):
    """One random layer of `keras.layers` in front of the network, active in training only."""

    known = ONLINE_LAYERS
    needs_one = NEEDS_ONE
    kind = "online layer"


def augment_online(
    pixels: keras.KerasTensor, layers: tuple[OnlineLayer, ...], seed: int
) -> keras.KerasTensor:
    """Return images, float32[B, H, W, 3] in 0..255, as the layers change them in training; else unchanged."""
    wrapper = _wrapper()
    for index, layer in enumerate(layers):
        name = f"online{index}_{layer.name.lower()}"
        draws = int(np.random.SeedSequence((seed, index)).generate_state(1)[0] >> 1)
        built = _built(layer, seed + index)
        pixels = wrapper(built, layer.probability, draws, name=name, dtype="float32")(pixels)
    return pixels


def _built(layer: OnlineLayer, seed: int) -> keras.layers.Layer:
    """Return the Keras layer. It computes in float32: counts of pixels overflow half precision."""
    import keras

    arguments = {name: _span_of(name, value, layer.name) for name, value in layer.factors.items()}
    arguments["dtype"] = "float32"
    if layer.name not in _UNSEEDED:
        arguments["seed"] = seed
    built = getattr(keras.layers, layer.name)(**arguments)
    # Some layers declare that they cannot be compiled. That holds for TensorFlow's XLA, which is not used;
    # JAX compiles all but one of them (Keras 3.15.1).
    for part in built._flatten_layers():
        part.supports_jit = layer.name != "RandomElasticTransform"
    if layer.name == "GaussianNoise":  # it takes a deviation of at most 1
        scales = (keras.layers.Rescaling(scale, dtype="float32") for scale in (1 / 255, 255))
        return keras.Sequential([next(scales), built, next(scales)])
    return built


def _span_of(name: str, value: object, layer: str) -> object:
    """Return a factor as Keras must be given it.

    Keras reads one number as a span that begins at the smallest number allowed: −1 for
    RandomColorDegeneration, one bit for RandomPosterization.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if layer == "RandomPosterization" or (name == "tile_grid_size" and is_number):
        return (value, value)
    if is_number and layer == "RandomColorDegeneration":
        return (0.0, value)
    return tuple(value) if isinstance(value, list) else value


def _wrapper() -> type[keras.layers.Layer]:
    """Return the class of Keras layers that apply another layer in training only, to part of the images."""
    import keras

    class Online(keras.layers.Layer):  # type: ignore[misc]
        """Applies a layer in training; never saved, because the saved model is built without it."""

        def __init__(
            self, layer: keras.layers.Layer, probability: float, seed: int, **options: object
        ) -> None:
            super().__init__(**options)
            self.layer, self.probability = layer, probability
            self.generator = keras.random.SeedGenerator(seed)

        def build(self, input_shape: tuple[int | None, ...]) -> None:
            self.layer.build(input_shape)

        def call(self, pixels: keras.KerasTensor, training: bool | None = None) -> keras.KerasTensor:
            if not training or not self.probability:
                return pixels
            ops = keras.ops
            changed = ops.clip(ops.cast(self.layer(pixels, training=True), "float32"), *_FULL_RANGE)
            if self.probability == 1.0:
                return changed
            draws = keras.random.uniform((ops.shape(pixels)[0], 1, 1, 1), seed=self.generator)
            return ops.where(draws < self.probability, changed, pixels)

        def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
            return input_shape

    return Online
