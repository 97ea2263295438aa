"""Augmentation layers for what cameras and files do to an image, which keras-cv 0.9.0 has no layers for.

Noise, JPEG, lost pixels and channels, motion and defocus. Each maps {"images": float32[B, H, W, 3] in 0..255,
"labels": float32[B, C]} to the same, draws a strength for each image, and leaves the labels. They share no
code with the corruptions that a model is judged by (`tasks/predict/medmnist_c.py`,
`tasks/predict/heavy_mix.py`).

`tf.random` makes all draws, before anything is mapped over the images: a seed of `tf.random` fixes them.
A new layer is one function here, registered by `_own_layer` with its factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.registry import Registry
from hemaflow.tasks.layers.schema import Factor

if TYPE_CHECKING:
    import tensorflow as tf

NUM_ANGLES = 12
"""Directions of motion to draw from, over half a turn."""
NUM_LENGTHS = 6
"""Lengths, or radii, of a blur to draw from, over its span."""

Span = tuple[float, float]
Change = Callable[["tf.Tensor"], "tf.Tensor"]
"""What a layer does to float32[B, H, W, 3] in 0..255."""
Builder = Callable[..., Change]
"""Called with the images' height and width in pixels, and with the span of each factor by its name."""
Batch = dict[str, "tf.Tensor"]
"""`images` and `labels`."""


@dataclass(frozen=True)
class OwnLayer:
    """A layer of our own.

    Attributes:
        factors: Its factors by name.
        builder: Returns what the layer does to images.
    """

    factors: Mapping[str, Factor]
    builder: Builder


OWN_LAYERS: Registry[OwnLayer] = Registry("layer")
"""Name of a layer → layer."""
CODE_TABLES = ("OWN_LAYERS",)


def _own_layer(name: str, **factors: Factor) -> Callable[[Builder], Builder]:
    """Register the decorated function as the builder of a layer with these factors."""

    def add(builder: Builder) -> Builder:
        OWN_LAYERS.register(name)(OwnLayer(factors, builder))
        return builder

    return add


def build(name: str, factors: Mapping[str, object], size_pixels: int) -> Callable[[Batch], Batch]:
    """Return a layer for images of that size.

    Args:
        name: The layer.
        factors: The factors that the config gives, already checked; a number x stands for the span 0..x.
        size_pixels: Height and width of the images.
    """
    spans = {factor: _span_of(value) for factor, value in factors.items()}
    change = OWN_LAYERS.find(name).builder(size_pixels, **spans)
    return lambda batch: {"images": change(batch["images"]), "labels": batch["labels"]}


def _span_of(value: object) -> Span:
    if isinstance(value, int | float):
        return 0.0, float(value)
    if isinstance(value, list | tuple):
        low, high = value
        return float(low), float(high)
    raise TypeError(f"Expected a number or a list of two. Received: {value!r}")


def _span(meaning: str, low: float = 0.0, high: float = 1.0) -> Factor:
    return Factor("span", meaning, low=low, high=high, required=True)


@_own_layer("GaussianNoise", stddev=_span("deviation, of the full range of grey values"))
def _gaussian_noise(_: int, stddev: Span) -> Change:
    import tensorflow as tf

    def change(images: tf.Tensor) -> tf.Tensor:
        deviation = 255.0 * tf.random.uniform((tf.shape(images)[0], 1, 1, 1), *stddev)
        return images + deviation * tf.random.normal(tf.shape(images))

    return change


@_own_layer("ImpulseNoise", amount=_span("part of the pixels that turn black or white"))
def _impulse_noise(_: int, amount: Span) -> Change:
    import tensorflow as tf

    def change(images: tf.Tensor) -> tf.Tensor:
        part = tf.random.uniform((tf.shape(images)[0], 1, 1, 1), *amount)
        drawn = tf.random.uniform((*tf.unstack(tf.shape(images)[:3]), 1))
        black, white = drawn < part / 2, drawn > 1 - part / 2
        return tf.where(black, 0.0, tf.where(white, 255.0, images))

    return change


@_own_layer("ChannelDrop")
def _channel_drop(_: int) -> Change:
    import tensorflow as tf

    def change(images: tf.Tensor) -> tf.Tensor:
        dropped = tf.cast(tf.random.uniform(tf.shape(images)[:1], 0.0, 3.0), tf.int32)
        return images * (1.0 - tf.one_hot(dropped, 3)[:, None, None, :])

    return change


@_own_layer("JpegCompression", quality=Factor("pair", "JPEG quality", low=1, high=100, required=True))
def _jpeg_compression(_: int, quality: Span) -> Change:
    import tensorflow as tf

    def change(images: tf.Tensor) -> tf.Tensor:
        drawn = tf.cast(tf.round(tf.random.uniform(tf.shape(images)[:1], *quality)), tf.int32)

        def compressed(each: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, its_quality = each
            data = tf.raw_ops.EncodeJpegVariableQuality(images=image, quality=its_quality)
            back = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
            return tf.ensure_shape(back, image.shape)

        pixels = tf.cast(tf.round(images), tf.uint8)
        return tf.cast(tf.map_fn(compressed, (pixels, drawn), fn_output_signature=tf.uint8), tf.float32)

    return change


@_own_layer(
    "Pixelation",
    scale=Factor("pair", "of the image's side, in pixels left", low=0.05, required=True),
)
def _pixelation(size_pixels: int, scale: Span) -> Change:
    import tensorflow as tf

    def change(images: tf.Tensor) -> tf.Tensor:
        left = tf.round(size_pixels * tf.random.uniform(tf.shape(images)[:1], *scale))
        sides = tf.maximum(1, tf.cast(left, tf.int32))

        def coarse(each: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, side = each
            small = tf.image.resize(image, (side, side), method="area")
            return tf.image.resize(small, (size_pixels, size_pixels), method="nearest")

        return tf.map_fn(coarse, (images, sides), fn_output_signature=tf.float32)

    return change


@_own_layer("MotionBlur", length=_span("of the image's side", high=0.3))
def _motion_blur(size_pixels: int, length: Span) -> Change:
    lengths = np.linspace(*length, NUM_LENGTHS) * size_pixels
    angles = np.arange(NUM_ANGLES) * np.pi / NUM_ANGLES
    return _blur([_line(reach, angle) for reach in lengths for angle in angles])


@_own_layer("DefocusBlur", radius=_span("of the image's side", high=0.1))
def _defocus_blur(size_pixels: int, radius: Span) -> Change:
    return _blur([_disk(reach) for reach in np.linspace(*radius, NUM_LENGTHS) * size_pixels])


def _blur(kernels: list[NDArray[np.float32]]) -> Change:
    """Return what convolves each image with one of these kernels, drawn, with the edge mirrored."""
    import tensorflow as tf

    side = max(len(kernel) for kernel in kernels)
    padded = np.stack([np.pad(kernel, (side - len(kernel)) // 2) for kernel in kernels])
    bank = np.repeat(padded[..., None, None], 3, axis=3)  # float32[K, side, side, 3, 1], for each channel

    def change(images: tf.Tensor) -> tf.Tensor:
        drawn = tf.cast(tf.random.uniform(tf.shape(images)[:1], 0.0, float(len(bank))), tf.int32)
        edge = side // 2
        framed = tf.pad(images, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="REFLECT")

        def blurred(each: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, kernel = each
            return tf.nn.depthwise_conv2d(image[None], kernel, (1, 1, 1, 1), "VALID")[0]

        return tf.map_fn(blurred, (framed, tf.gather(bank, drawn)), fn_output_signature=tf.float32)

    return change


def _line(length: float, angle: float) -> NDArray[np.float32]:
    """Return a kernel of odd side that smears along a line of that many pixels; it sums to 1."""
    half = int(np.ceil(length / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for step in np.linspace(-length / 2, length / 2, max(2, 4 * half + 1)):
        x, y = half + step * np.cos(angle), half + step * np.sin(angle)
        left, top = int(np.floor(x)), int(np.floor(y))
        for column, across in ((left, left + 1 - x), (left + 1, x - left)):
            for row, down in ((top, top + 1 - y), (top + 1, y - top)):
                if across * down > 0:
                    kernel[row, column] += across * down
    summed: NDArray[np.float32] = kernel / kernel.sum()
    return summed


def _disk(radius: float) -> NDArray[np.float32]:
    """Return a kernel of odd side that is even within a radius in pixels, soft at its edge; it sums to 1."""
    half = int(np.ceil(radius))
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1).astype(np.float32)
    summed: NDArray[np.float32] = kernel / kernel.sum()
    return summed
