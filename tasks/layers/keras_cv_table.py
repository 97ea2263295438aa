"""The layers that make augmented copies, and the factors of each: a table that needs no keras-cv.

With it, a wrong name or value fails when a config is made, before any work and before TensorFlow is loaded.
The names, requirements and limits of KERAS_CV are those of keras-cv 0.9.0; a test compares them with the
signatures there. `tasks/layers/own_layers.py` has what keras-cv lacks.

Not in the table, because of what they do in keras-cv 0.9.0: RandomAspectRatio (gives images of many sizes;
resizing them back undoes it), RandomCrop, Resizing and Rescaling (change every image's size or range), and
layers made of other layers, for which `probability` and the order of the list stand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from hemaflow.tasks.layers.own_layers import OWN_LAYERS
from hemaflow.tasks.layers.schema import Factor, Layer


def _factor(required: bool = True, meaning: str = "strength", high: float = 1.0) -> Factor:
    return Factor("span", meaning, high=high, required=required)


def _shift(meaning: str, required: bool = True, high: float = 1.0) -> Factor:
    return Factor("span", meaning, low=-1.0, high=high, required=required)


def _words(meaning: str, *choices: str) -> Factor:
    return Factor("choice", meaning, choices=choices)


_ANY = math.inf
# Below 0.1 both draws of the beta distribution may underflow to 0 in float32, and 0/0 is no label:
# P(gamma(a) < 1e-38) = 10^(-38 a), which is 1.6e-4 for a = 0.1 and 0.4 for a = 0.01.
_ALPHA = Factor("number", "of the beta distribution that weighs two images", low=0.1, high=_ANY)
_CONSTANT = ("fill_mode", ("constant",))
_FILL_VALUE = Factor("number", "grey value where fill_mode is constant", high=255, only_with=_CONSTANT)
_FILL = {
    "fill_mode": _words("what lies beyond the edge", "reflect", "wrap", "constant", "nearest"),
    "fill_value": _FILL_VALUE,
    "interpolation": _words("method", "bilinear", "nearest"),
}
_RESIZE = ("bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic")
_CONTRAST = Factor("margins", "contrast from 1 − the first to 1 + the second", required=True)
_BRIGHTNESS = _shift("of the full range of brightness")
_SATURATION = _factor(meaning="0 grey, 0.5 unchanged, 1 fully saturated")
_HUE = _factor(meaning="of half a turn of the hue, either way")

KERAS_CV: Mapping[str, Mapping[str, Factor]] = {
    "AugMix": {
        # keras-cv takes one number x as the span 0.01..x.
        "severity": Factor("span", "strength", low=0.01),
        "num_chains": Factor("integer", "chains mixed", low=1, high=_ANY),
        "chain_depth": Factor("size", "operations in a chain", low=1, high=_ANY),
        "alpha": _ALPHA,
    },
    "AutoContrast": {},
    "ChannelShuffle": {"groups": Factor("integer", "groups of channels", choices=(1, 3))},
    "CutMix": {"alpha": _ALPHA},
    "Equalization": {},
    "FourierMix": {
        "alpha": _ALPHA,
        "decay_power": Factor("number", "of the high frequencies", high=_ANY),
    },
    "Grayscale": {},
    "GridMask": {
        "ratio_factor": _factor(required=False, meaning="masked part of the grid"),
        "rotation_factor": _shift("of a full turn", required=False),
        "fill_value": Factor("integer", "grey value of the mask", high=255),
    },
    "JitteredResize": {
        "scale_factor": Factor("pair", "of the image's size", low=0.1, high=10.0, required=True),
        "interpolation": _words("method", *_RESIZE),
    },
    "MixUp": {"alpha": _ALPHA},
    "Mosaic": {"offset": Factor("pair", "of the image's size, where four images meet")},
    "Posterization": {"bits": Factor("integer", "bits kept of each channel", low=1, high=8, required=True)},
    "RandAugment": {
        "augmentations_per_image": Factor("integer", "operations on each image", low=1, high=_ANY),
        "magnitude": Factor("number", "mean strength"),
        "magnitude_stddev": Factor("number", "spread of the strength"),
        "rate": Factor("number", "probability of each operation"),
        "geometric": Factor("flag", "whether to shear and shift too"),
    },
    "RandomBrightness": {"factor": _BRIGHTNESS},
    "RandomChannelShift": {"factor": _factor(meaning="of the full range of a channel")},
    "RandomColorDegeneration": {"factor": _factor(meaning="0 unchanged, 1 grey")},
    "RandomColorJitter": {
        "brightness_factor": _BRIGHTNESS,
        "contrast_factor": _CONTRAST,
        "saturation_factor": _SATURATION,
        "hue_factor": _HUE,
    },
    "RandomContrast": {"factor": _CONTRAST},
    "RandomCropAndResize": {
        "crop_area_factor": Factor("pair", "of the image's area", low=0.01, required=True),
        "aspect_ratio_factor": Factor("pair", "width over height", low=0.1, high=10.0, required=True),
        "interpolation": _words("method", *_RESIZE),
    },
    "RandomCutout": {
        "height_factor": _factor(meaning="of the image's height"),
        "width_factor": _factor(meaning="of the image's width"),
        "fill_mode": _words("what fills the hole", "constant", "gaussian_noise"),
        # fill_mode is constant by default here.
        "fill_value": replace(_FILL_VALUE, only_with=("fill_mode", ("constant", None))),
    },
    "RandomFlip": {
        "mode": _words("axis", "horizontal", "vertical", "horizontal_and_vertical"),
        "rate": Factor("number", "probability of each flip"),
    },
    "RandomGaussianBlur": {
        "kernel_size": Factor("size", "pixels", low=1, high=_ANY, required=True),
        "factor": _factor(meaning="sigma, pixels", high=_ANY),
    },
    "RandomHue": {"factor": _HUE},
    "RandomRotation": {"factor": _shift("of a full turn"), **_FILL},
    "RandomSaturation": {"factor": _SATURATION},
    "RandomSharpness": {"factor": _factor()},
    "RandomShear": {
        "x_factor": _factor(required=False, meaning="of the image's width", high=_ANY),
        "y_factor": _factor(required=False, meaning="of the image's height", high=_ANY),
        **_FILL,
    },
    "RandomTranslation": {
        "height_factor": _shift("of the image's height"),
        "width_factor": _shift("of the image's width"),
        **_FILL,
    },
    "RandomZoom": {
        "height_factor": _shift("of the height; negative is nearer"),
        "width_factor": _shift("of the width; the same as the height where left out", required=False),
        **_FILL,
    },
    "Solarization": {
        "addition_factor": _factor(required=False, meaning="grey values added", high=255),
        "threshold_factor": _factor(required=False, meaning="grey value above which to invert", high=255),
    },
}
"""Layer → its factors. The code fills in others (value_range, target_size …)."""
CODE_TABLES = ("KERAS_CV",)

LAYERS: Mapping[str, Mapping[str, Factor]] = {
    **KERAS_CV,
    **{name: layer.factors for name, layer in OWN_LAYERS.items()},
}
"""Every layer → its factors."""

NEEDS_ONE: Mapping[str, tuple[str, ...]] = {"RandomShear": ("x_factor", "y_factor")}
"""Layer → factors of which at least one must be given: without any the layer changes nothing."""


class LayerConfig(Layer):
    """One layer of the chain that makes augmented copies: of keras_cv.layers, or of
    tasks/layers/own_layers.py."""

    known = LAYERS
    needs_one = NEEDS_ONE
    kind = "layer"
