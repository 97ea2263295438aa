"""Two corruptions of MedMNIST-C (arXiv:2406.17536): stain deposits and air bubbles, drawn on an image.

See `tasks/predict/medmnist_c.py`. Shapes are drawn at OVERSAMPLING times the image's size and reduced to it,
so that their edges are smooth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

OVERSAMPLING = 4
"""Points per pixel, along each axis, in which a shape is drawn."""
REFERENCE_PIXELS = 224
"""Height and width of the images that the reference's lengths are meant for."""

INK_CORNERS = 40
"""Corners of the polygon of a spot."""
INK_OPACITY = 0.85, 1.0
"""The reference multiplies by 1 − ink, with ink up to 1: black."""

BUBBLE_RADIUS, BUBBLE_RIM = 3, 2
"""The least radius of a bubble and how much wider its rim is, in pixels of 224; the reference's figures."""
BUBBLES = 7
"""The least number of bubbles; the reference's figure."""
BUBBLE_ALPHA, RIM_ALPHA = 100, 130
"""How white a bubble and its rim are, of 255; the reference's figures."""


def stain_deposit(
    image: NDArray[np.uint8], spots: tuple[int, float], drawn: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw dark spots on an image, at most as many as `spots` says.

    The reference pastes pictures of ink, the same sizes for severities 1 to 4 and larger ones for 5. Here a
    spot is a polygon whose radius is a mean and three waves around it.

    Args:
        image: uint8[H, W, 3].
        spots: The most spots, and the largest mean radius as a share of the side; the least is half of it.
        drawn: Draws how many there are, and of each the place, size, form and opacity.
    """
    most, largest = spots
    height, width = image.shape[:2]
    light = np.ones((height, width), np.float32)
    for _ in range(drawn.integers(1, most + 1)):
        radius = drawn.uniform(largest / 2, largest) * height
        waves, phases = drawn.uniform(0, 0.3, 3) / (1, 1.5, 2), drawn.uniform(0, 2 * np.pi, 3)
        around = np.linspace(0, 2 * np.pi, INK_CORNERS, endpoint=False)
        outline = radius * (1 + np.cos(np.outer(around, (2, 3, 5)) + phases) @ waves)
        margin = min(radius * 1.5, min(height, width) / 2)
        x, y = drawn.uniform(margin, width - margin), drawn.uniform(margin, height - margin)
        corners = np.stack([x + outline * np.cos(around), y + outline * np.sin(around)], 1)
        canvas, pen = _canvas(height, width)
        pen.polygon([tuple(corner) for corner in (corners * OVERSAMPLING).tolist()], fill=255)
        opacity = drawn.uniform(*INK_OPACITY)
        light *= 1 - np.float32(opacity / 255) * _drawn(canvas)
    return (image * light[..., None]).astype(np.uint8)


def bubble(
    image: NDArray[np.uint8], bubbles: tuple[int, int], drawn: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw bubbles on an image: disks of thin white with a whiter rim; later ones lie on top.

    Args:
        image: uint8[H, W, 3].
        bubbles: The largest radius in pixels of 224, and the most bubbles.
        drawn: Draws how many there are, and of each the place and size.
    """
    largest, most = bubbles
    height, width = image.shape[:2]
    scale = height / REFERENCE_PIXELS
    canvas, pen = _canvas(height, width)
    for _ in range(drawn.integers(BUBBLES, most + 1)):
        radius = scale * drawn.integers(BUBBLE_RADIUS, largest + 1)
        x, y = drawn.uniform(radius, width - radius), drawn.uniform(radius, height - radius)
        for reach, alpha in ((radius + scale * BUBBLE_RIM, RIM_ALPHA), (radius, BUBBLE_ALPHA)):
            edges = (x - reach, y - reach, x + reach, y + reach)
            pen.ellipse([edge * OVERSAMPLING for edge in edges], fill=alpha)
    white = _drawn(canvas)[..., None] / np.float32(255)
    return (image + (255 - image) * white + 0.5).astype(np.uint8)


def _canvas(height: int, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return an empty canvas and a pen for it."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
    return canvas, ImageDraw.Draw(canvas)


def _drawn(canvas: Image.Image) -> NDArray[np.float32]:
    """Return what was drawn, float32[H, W] in 0..255."""
    return np.asarray(canvas.reduce(OVERSAMPLING)).astype(np.float32)
