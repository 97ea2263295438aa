"""The eleven corruptions of MedMNIST-C for BloodMNIST, in five severities each (arXiv:2406.17536).

Definitions and parameters are those of the paper's reference implementation (medmnistc-api, its table for
`bloodmnist`); the code is our own, with numpy and Pillow. Every function maps uint8[H, W, 3] in 0..255 to the
same, and reads or writes nothing else.

Guarantees: a corrupted image depends only on (seed, its id, corruption, severity), never on its batch or on
earlier images. Sums are computed in one fixed order, so that all machines agree to the bit.

Differences from the reference, and why:

- The reference works on images of 224 pixels. Here lengths in pixels (radii of blurs and bubbles, a bubble's
  rim) are scaled by H / 224, with partial coverage of pixels. Factors, qualities and counts are not scaled;
  the 8 × 8 blocks of JPEG cover more of a smaller image, so it loses more.
- Blurs are convolved and rounded here; the reference uses OpenCV and ImageMagick, and truncates.
- The stain deposits of the reference are pictures of ink; ours are drawn (see
  `tasks/predict/medmnist_c_deposits.py`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.predict.medmnist_c_deposits import REFERENCE_PIXELS, bubble, stain_deposit

Image = NDArray[np.uint8]
"""uint8[H, W, 3] in 0..255."""
Images = NDArray[np.uint8]
"""uint8[B, H, W, 3] in 0..255."""

NUM_SEVERITIES = 5


Parameter = TypeVar("Parameter", int, float, tuple[int, float], tuple[int, int])


class Corruption(NamedTuple):
    """One way to corrupt an image, in five severities.

    Attributes:
        severities: (image, generator) → image, at severity 1, 2, 3, 4, 5.
        is_random: Whether these draw from the generator.
    """

    severities: tuple[Callable[[Image, np.random.Generator], Image], ...]
    is_random: bool


def _corruption(
    function: Callable[[Image, Parameter, np.random.Generator], Image],
    parameters: Sequence[Parameter],
    is_random: bool = False,
) -> Corruption:
    """Return a corruption from (image, parameter, generator) → image and its parameter at each severity."""

    def at(parameter: Parameter) -> Callable[[Image, np.random.Generator], Image]:
        return lambda image, drawn: function(image, parameter, drawn)

    return Corruption(tuple(map(at, parameters)), is_random)


def corrupt(images: Images, ids: Sequence[str], name: str, severity: int, seed: int) -> Images:
    """Return images under one of the corruptions of MEDMNIST_C.

    Args:
        images: uint8[B, H, W, 3].
        ids: The id of each image.
        name: A key of MEDMNIST_C.
        severity: 1..5.
        seed: Random seed of the random corruptions.
    """
    corruption = MEDMNIST_C[name]
    operation = corruption.severities[severity - 1]
    spoiled = np.empty_like(images)
    unused = np.random.default_rng(0)
    for index, image_id in enumerate(ids):
        drawn = generator(seed, image_id, name, severity) if corruption.is_random else unused
        spoiled[index] = operation(images[index], drawn)
    return spoiled


def generator(*names: object) -> np.random.Generator:
    """Return a random generator seeded by these names; it is the same on every machine."""
    text = "\0".join(str(name) for name in names)
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))


def pixelate(image: Image, share: float, _: np.random.Generator) -> Image:
    """Resize to a share of the side and back, each pixel the mean of those it covers."""
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    small = max(1, int(width * share)), max(1, int(height * share))
    box = Pillow.Resampling.BOX
    return np.asarray(Pillow.fromarray(image).resize(small, box).resize((width, height), box))


def jpeg_compression(image: Image, quality: int, _: np.random.Generator) -> Image:
    """Save as JPEG of a quality in 1..95, and read it back."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Pillow.open(file))


def defocus_blur(image: Image, radius: float, _: np.random.Generator) -> Image:
    """Blur by a disk of a radius in pixels of 224: each point becomes as wide as the aperture shows it.

    The reference smoothes the edge of its disk by a Gaussian of 0.01 to 0.1 pixels; here every pixel of the
    disk has the share of it that the disk covers. A disk within one pixel, as on small images, does nothing.
    """
    radius *= image.shape[0] / REFERENCE_PIXELS
    half = int(np.ceil(radius - 0.5))
    parts = 16
    line = (np.arange(parts * (2 * half + 1)) + 0.5) / parts - half - 0.5
    inside = line[:, None] ** 2 + line**2 <= radius**2
    kernel = inside.reshape(2 * half + 1, parts, 2 * half + 1, parts).mean((1, 3))
    return convolve(image, kernel / kernel.sum(), "reflect")


def motion_blur(image: Image, length: tuple[int, float], drawn: np.random.Generator) -> Image:
    """Smear along a direction within 45 degrees of the horizontal.

    Args:
        image: uint8[H, W, 3].
        length: Radius and sigma in pixels of 224, as ImageMagick's motion blur takes them: a half Gaussian of
            that sigma over 2 · radius + 1 pixels, on one side of the point.
        drawn: Draws the direction.
    """
    radius, sigma = length
    scale = image.shape[0] / REFERENCE_PIXELS
    angle = np.deg2rad(drawn.uniform(-45, 45))
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    half = int(np.ceil(scale * steps[-1]))
    kernel = np.zeros((2 * half + 2, 2 * half + 2))
    rows, columns = half + scale * steps * np.sin(angle), half + scale * steps * np.cos(angle)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for down, share in ((0, 1 - (rows - top)), (1, rows - top)):  # each step between four pixels
        np.add.at(kernel, (top + down, left), weights * share * (1 - (columns - left)))
        np.add.at(kernel, (top + down, left + 1), weights * share * (columns - left))
    return convolve(image, kernel[: 2 * half + 1, : 2 * half + 1] / kernel.sum(), "edge")


def brightness(image: Image, factor: float, _: np.random.Generator) -> Image:
    """Multiply every value, as Pillow's ImageEnhance.Brightness does."""
    return _between(0, factor)[image]


def contrast(image: Image, factor: float, _: np.random.Generator) -> Image:
    """Move every value away from the image's mean luma or towards it, as ImageEnhance.Contrast does."""
    return _between(int(luma(image).mean() + 0.5), factor)[image]


def saturate(image: Image, more: float, _: np.random.Generator) -> Image:
    """Add to the saturation of HSV, in 0..1; hue and value stay. What is grey counts as red."""
    value = image.max(2, keepdims=True).astype(np.float32)
    spread = value - image.min(2, keepdims=True)
    below = np.divide(value - image, spread, out=np.ones(image.shape, np.float32), where=spread > 0)
    below[..., 0] *= spread[..., 0] > 0
    saturation = np.minimum(np.divide(spread, value, out=np.zeros_like(value), where=value > 0) + more, 1)
    saturated: Image = (value * (1 - saturation * below) + 0.5).astype(np.uint8)
    return saturated


def luma(image: Image) -> NDArray[np.uint8]:
    """Return uint8[H, W], ITU-R BT.601 in the whole numbers that Pillow's mode L has."""
    red, green, blue = (image[..., channel].astype(np.uint32) for channel in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)


def convolve(image: Image, kernel: NDArray[np.float64], border: Literal["edge", "reflect"]) -> Image:
    """Return sum over (i, j) of kernel[i, j] · image shifted there; the kernel is odd, its sum is 1.

    Args:
        image: uint8[H, W, 3].
        kernel: float64[2a + 1, 2b + 1].
        border: What lies outside, by the name that numpy.pad has for it.
    """
    height, width = image.shape[:2]
    down, right = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(image, ((down, down), (right, right), (0, 0)), mode=border).astype(np.float32)
    total, term = np.full(image.shape, 0.5, np.float32), np.empty(image.shape, np.float32)
    for row, column in np.argwhere(kernel > 0):
        shifted = padded[row : row + height, column : column + width]
        total += np.multiply(shifted, np.float32(kernel[row, column]), out=term)
    blurred: Image = np.minimum(total, 255).astype(np.uint8)
    return blurred


def _between(grey: int, factor: float) -> NDArray[np.uint8]:
    """Return uint8[256]: what each value becomes, `factor` times as far from a grey, without fractions."""
    moved = np.float32(grey) + np.float32(factor) * (np.arange(256, dtype=np.float32) - np.float32(grey))
    whole: NDArray[np.uint8] = np.clip(moved, 0, 255).astype(np.uint8)
    return whole


MEDMNIST_C: dict[str, Corruption] = {
    "pixelate": _corruption(pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": _corruption(jpeg_compression, (50, 30, 15, 10, 7)),
    "defocus_blur": _corruption(defocus_blur, (2, 3, 4, 5, 6)),
    "motion_blur": _corruption(motion_blur, ((3, 3), (5, 5), (10, 5), (10, 7), (10, 9)), is_random=True),
    "brightness_up": _corruption(brightness, (1.1, 1.2, 1.3, 1.35, 1.4)),
    "brightness_down": _corruption(brightness, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "contrast_up": _corruption(contrast, (1.1, 1.15, 1.2, 1.25, 1.3)),
    "contrast_down": _corruption(contrast, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "saturate": _corruption(saturate, (0.05, 0.1, 0.15, 0.17, 0.2)),
    "stain_deposit": _corruption(
        stain_deposit, ((1, 0.09), (2, 0.09), (3, 0.09), (3, 0.09), (3, 0.12)), is_random=True
    ),
    "bubble": _corruption(bubble, ((5, 10), (7, 10), (10, 10), (12, 12), (15, 12)), is_random=True),
}
"""Name → function and severities; the names are the reference's."""

ALEXNET_BALANCED_ERROR = {
    "pixelate": 0.0598,
    "jpeg_compression": 0.1398,
    "defocus_blur": 0.2240,
    "motion_blur": 0.1845,
    "brightness_up": 0.0695,
    "brightness_down": 0.0790,
    "contrast_up": 0.0522,
    "contrast_down": 0.0797,
    "saturate": 0.0348,
    "stain_deposit": 0.1854,
    "bubble": 0.1290,
}
"""1 − balanced accuracy of AlexNet on BloodMNIST at 224 pixels, mean of the severities (arXiv:2406.17536)."""
