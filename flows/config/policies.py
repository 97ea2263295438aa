"""Augmentation policies: named sets of layers that any recipe can be given, `--set policy=NAME`.

A policy says which copies are made of each image before training (offline: keras-cv and
`tasks/layers/own_layers.py`, into TFRecords) and which layers change an image anew each time that it is seen
(online: `keras.layers`, in front of the network). It replaces what the recipe has of both, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from hemaflow.infra.errors import ConfigError, nearest

Document = dict[str, dict[str, JsonValue]]
"""A config of the pipeline as JSON: stage → field → value."""
Layers = tuple[dict[str, JsonValue], ...]


@dataclass(frozen=True)
class Policy:
    """A named set of layers.

    Attributes:
        summary: What it does, and where it comes from.
        copies: Augmented copies of each image.
        layers: Of the copies, one after another.
        online: In front of the network.
    """

    summary: str
    copies: int = 0
    layers: Layers = ()
    online: Layers = ()


def _layer(name: str, probability: float = 1.0, **factors: JsonValue) -> dict[str, JsonValue]:
    return {"name": name, "probability": probability, "factors": factors}


ANY_WAY_ROUND: Layers = (
    _layer("RandomFlip", mode="horizontal_and_vertical"),
    # At any angle; nearest keeps the pictures as sharp as those that are judged.
    _layer("RandomRotation", factor=0.5, fill_mode="reflect", interpolation="nearest"),
)

# By keras-cv and by keras.layers alike: layers and arguments have the same names in both.
MOVED_AND_RECOLOURED: Layers = (
    _layer("RandomZoom", 0.1, height_factor=[-0.3, 0.4]),
    _layer("RandomTranslation", 0.06, height_factor=0.2, width_factor=0.2),
    _layer("RandomTranslation", 0.06, height_factor=0.2, width_factor=0.2, fill_mode="constant"),
    _layer("RandomShear", 0.1, x_factor=0.4, y_factor=0.4),
    _layer("RandomHue", 0.12, factor=1.0),
    _layer("RandomSaturation", 0.1, factor=[0.1, 0.8]),
    _layer("RandomBrightness", 0.12, factor=0.35),
    _layer("RandomContrast", 0.12, factor=[0.7, 1.0]),
)

# About two of them change each copy. In the order of a picture's making: where the cell lies, its stain and
# light, what covers it, the lens, the camera, the file.
_SPOILED: Layers = (
    *MOVED_AND_RECOLOURED,
    _layer("RandomChannelShift", 0.1, factor=0.3),
    _layer("ChannelShuffle", 0.1, groups=3),
    _layer("ChannelDrop", 0.08),
    _layer("Grayscale", 0.08),
    _layer("Solarization", 0.08, threshold_factor=[96, 224]),
    _layer("Posterization", 0.06, bits=2),
    _layer("RandomCutout", 0.12, height_factor=0.35, width_factor=0.35),
    _layer("GridMask", 0.08, ratio_factor=[0.3, 0.5]),
    _layer("DefocusBlur", 0.1, radius=[0.01, 0.06]),
    _layer("MotionBlur", 0.1, length=[0.05, 0.25]),
    _layer("GaussianNoise", 0.12, stddev=[0.02, 0.2]),
    _layer("ImpulseNoise", 0.08, amount=[0.01, 0.15]),
    _layer("Pixelation", 0.1, scale=[0.15, 0.8]),
    _layer("JpegCompression", 0.1, quality=[5, 60]),
)

_FIFTEEN: Layers = (
    *ANY_WAY_ROUND,
    _layer("RandomTranslation", 0.3, height_factor=0.1, width_factor=0.1),
    _layer("RandomZoom", 0.3, height_factor=[-0.2, 0.2]),
    _layer("RandomShear", 0.3, x_factor=0.2, y_factor=0.2),
    _layer("RandomHue", 0.2, factor=0.5),
    _layer("RandomSaturation", 0.2, factor=[0.2, 0.8]),
    _layer("RandomBrightness", 0.2, factor=0.2),
    _layer("RandomContrast", 0.2, factor=0.3),
    _layer("RandomGrayscale", 0.1, factor=1.0),
    _layer("Solarization", 0.1, threshold_factor=[0.4, 0.9]),
    _layer("RandomPosterization", 0.1, factor=3),
    _layer("RandomErasing", 0.2, factor=[1.0, 1.0], scale=[0.02, 0.15]),
    _layer("RandomGaussianBlur", 0.2, factor=[1.0, 1.0], kernel_size=5, sigma=[0.3, 1.0]),
    _layer("GaussianNoise", 0.2, stddev=0.08),
)

# What of it keras.layers can do, about two again: they know no lost pixels, motion or JPEG, and no blur of
# more than one pixel. [1, 1] is each image: how many are changed is the probability's affair alone.
_SPOILED_ONLINE: Layers = (
    *MOVED_AND_RECOLOURED,
    _layer("RandomGrayscale", 0.1, factor=1.0),
    _layer("RandomInvert", 0.06, factor=[1.0, 1.0]),
    _layer("Solarization", 0.1, threshold_factor=[0.4, 0.9]),
    _layer("RandomPosterization", 0.08, factor=2),
    _layer("RandomErasing", 0.12, factor=[1.0, 1.0], scale=[0.1, 0.35]),
    _layer("RandomErasing", 0.12, factor=[1.0, 1.0], scale=[0.1, 0.35], fill_value=0),
    _layer("RandomGaussianBlur", 0.1, factor=[1.0, 1.0], kernel_size=7, sigma=[0.5, 1.0]),
    _layer("RandomGaussianBlur", 0.1, factor=[1.0, 1.0], kernel_size=7, sigma=[1.0, 1.0]),
    _layer("GaussianNoise", 0.12, stddev=0.05),
    _layer("GaussianNoise", 0.12, stddev=0.15),
)

POLICIES: Mapping[str, Policy] = {
    "none": Policy("The images as they are."),
    "flips": Policy("Online: mirrored and turned by any angle; a cell has no way up.", online=ANY_WAY_ROUND),
    "randaugment": Policy(
        "Six copies by RandAugment at keras-cv's own strength (arXiv:1909.13719).",
        copies=6,
        layers=(_layer("RandAugment"),),
    ),
    "randaugment-mix": Policy(
        "Six copies by RandAugment, half of them through CutMix and half through MixUp "
        "(arXiv:1905.04899, arXiv:1710.09412).",
        copies=6,
        layers=(_layer("RandAugment"), _layer("CutMix", 0.5), _layer("MixUp", 0.5)),
    ),
    "seed": Policy(
        "Six copies by the layers of the competition entry that hemaflow began as. Its report does not tell "
        "their strengths: they are keras-cv's own, a tenth of the size, or 0.2.",
        copies=6,
        layers=(
            _layer("RandAugment"),
            _layer("CutMix", 0.5),
            _layer("MixUp", 0.5),
            _layer("RandomTranslation", height_factor=0.1, width_factor=0.1),
            _layer("RandomShear", x_factor=0.1, y_factor=0.1),
            _layer("RandomContrast", factor=0.2),
            _layer("RandomBrightness", factor=0.2),
        ),
    ),
    "first-place": Policy(
        "Online: fifteen layers, as many as the winner of that competition had. Which they were could not be "
        "found: these are ours.",
        online=_FIFTEEN,
    ),
    "robust": Policy(
        "Online as flips; and eight copies, each changed by about two of 22 layers: moved, recoloured, "
        "covered, blurred, noisy, compressed.",
        copies=8,
        layers=_SPOILED,
        online=ANY_WAY_ROUND,
    ),
    "robust-online": Policy(
        "The idea of robust without copies: online as flips, and each image changed anew by about two of 18 "
        "layers: moved, recoloured, covered, blurred, noisy.",
        online=(*ANY_WAY_ROUND, *_SPOILED_ONLINE),
    ),
}
"""Name → policy."""


def with_policy(document: Document, name: str) -> Document:
    """Return the document of a config with the layers of a policy. Raises ConfigError."""
    if name not in POLICIES:
        raise ConfigError(
            f"There is no augmentation policy {name!r}.",
            expected=nearest(name, POLICIES),
            remedy="List them with: hemaflow policies",
        )
    policy = POLICIES[name]
    augment: dict[str, JsonValue] = {
        "copies": policy.copies,
        "layers": list(policy.layers),
        "keep_original": True,
    }
    return {
        **document,
        "augment": document["augment"] | augment,
        "train": {**document["train"], "online": list(policy.online)},
    }
