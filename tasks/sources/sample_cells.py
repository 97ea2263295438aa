"""Cells that hemaflow draws itself: eight visibly different morphologies, for a first run without download.

They are caricatures after the textbook features of the eight classes of peripheral blood cells (size, shape
of the nucleus, granules, colour of the cytoplasm), stained like May-Grünwald-Giemsa, on a field of red cells.
They show that the pipeline works; a model trained on them knows nothing of blood.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.classes import PBC_CLASSES

if TYPE_CHECKING:
    from PIL import ImageDraw

NUM_PER_CLASS = 60
SIZE_PIXELS = 96
SUPERSAMPLING = 3
"""Factor by which cells are drawn larger and then reduced, for smooth edges."""

Colour = tuple[int, int, int]


def draw_cell(label: int, index: int) -> NDArray[np.uint8]:
    """Return the `index`-th cell of a class as uint8[96, 96, 3]; always the same for the same arguments."""
    from PIL import Image, ImageDraw, ImageFilter

    rng = np.random.default_rng((2024, label, index))
    size = SIZE_PIXELS * SUPERSAMPLING
    background = _vary(rng, (244, 226, 214), 6)
    image = Image.new("RGB", (size, size), background)
    pen = ImageDraw.Draw(image)
    _draw_red_cells(pen, rng, size)
    middle = size / 2 + rng.uniform(-0.05, 0.05, 2) * size
    _DRAW[PBC_CLASSES[label]](pen, rng, middle, float(size))
    image = image.rotate(float(rng.uniform(0, 360)), Image.Resampling.BICUBIC, fillcolor=background)
    image = image.filter(ImageFilter.GaussianBlur(SUPERSAMPLING * float(rng.uniform(0.4, 0.9))))
    small = np.asarray(image.resize((SIZE_PIXELS, SIZE_PIXELS), Image.Resampling.LANCZOS), np.float32)
    noisy = small * rng.uniform(0.92, 1.06) + rng.normal(0, 3.0, small.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _draw_red_cells(pen: ImageDraw.ImageDraw, rng: np.random.Generator, size: int) -> None:
    for _ in range(int(rng.integers(3, 7))):
        angle, radius = rng.uniform(0, 2 * math.pi), 0.17 * size * rng.uniform(0.85, 1.15)
        away = rng.uniform(0.48, 0.66) * size
        x, y = size / 2 + away * math.cos(angle), size / 2 + away * math.sin(angle)
        _disc(pen, x, y, radius, _vary(rng, (224, 166, 160), 8))
        _disc(pen, x, y, radius * 0.45, _vary(rng, (236, 198, 190), 6))


def _basophil(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, at: NDArray[np.float64], size: float
) -> None:
    radius = size * rng.uniform(0.25, 0.29)
    _blob(pen, rng, at, radius, _vary(rng, (205, 180, 208), 8))
    for lobe in range(2):
        _blob(
            pen, rng, at + _polar(radius * 0.35, lobe * math.pi), radius * 0.55, _vary(rng, (130, 90, 160), 8)
        )
    _granules(pen, rng, at, radius * 0.95, 55, size * 0.020, (62, 30, 100))


def _eosinophil(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, at: NDArray[np.float64], size: float
) -> None:
    radius = size * rng.uniform(0.27, 0.31)
    _blob(pen, rng, at, radius, _vary(rng, (240, 190, 170), 8))
    _granules(pen, rng, at, radius * 0.92, 110, size * 0.016, (226, 110, 80))
    for side in (-1, 1):
        _blob(
            pen,
            rng,
            at + _polar(radius * 0.42, side * math.pi / 2),
            radius * 0.40,
            _vary(rng, (100, 62, 140), 8),
        )


def _erythroblast(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, at: NDArray[np.float64], size: float
) -> None:
    radius = size * rng.uniform(0.18, 0.22)
    _blob(pen, rng, at, radius, _vary(rng, (190, 172, 204), 10), roughness=0.02)
    _blob(pen, rng, at, radius * rng.uniform(0.55, 0.65), _vary(rng, (58, 30, 92), 8), roughness=0.02)


def _immature(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, at: NDArray[np.float64], size: float
) -> None:
    radius = size * rng.uniform(0.32, 0.37)
    _blob(pen, rng, at, radius, _vary(rng, (186, 172, 214), 8))
    _blob(pen, rng, at + _polar(radius * 0.28, 0.0), radius * 0.64, _vary(rng, (150, 102, 178), 8))
    _granules(pen, rng, at, radius * 0.9, 45, size * 0.008, (150, 60, 130))


def _lymphocyte(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, at: NDArray[np.float64], size: float
) -> None:
    radius = size * rng.uniform(0.21, 0.25)
    _blob(pen, rng, at, radius, _vary(rng, (168, 196, 234), 8))
    _blob(
        pen, rng, at + _polar(radius * 0.08, 1.0), radius * 0.86, _vary(rng, (96, 60, 140), 8), roughness=0.03
    )


def _monocyte(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, at: NDArray[np.float64], size: float
) -> None:
    radius = size * rng.uniform(0.33, 0.38)
    _blob(pen, rng, at, radius, _vary(rng, (186, 190, 208), 8), roughness=0.08)
    # A kidney: a disc with a bay of cytoplasm.
    _blob(pen, rng, at, radius * 0.68, _vary(rng, (128, 90, 164), 8))
    _blob(pen, rng, at + _polar(radius * 0.62, 0.6), radius * 0.40, _vary(rng, (186, 190, 208), 6))
    for _ in range(int(rng.integers(1, 4))):
        place = at + _polar(radius * rng.uniform(0.6, 0.85), rng.uniform(2, 5))
        _disc(pen, place[0], place[1], size * 0.02, (226, 226, 236))


def _neutrophil(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, at: NDArray[np.float64], size: float
) -> None:
    radius = size * rng.uniform(0.26, 0.30)
    _blob(pen, rng, at, radius, _vary(rng, (234, 208, 214), 6))
    _granules(pen, rng, at, radius * 0.9, 60, size * 0.005, (206, 160, 186))
    colour, lobes = _vary(rng, (92, 54, 132), 8), int(rng.integers(3, 6))
    bend = rng.uniform(0.8, 1.1)
    places = [at + _polar(radius * 0.48, bend * lobe * 2 * math.pi / 5) for lobe in range(lobes)]
    pen.line([coordinate for place in places for coordinate in place], fill=colour, width=int(size * 0.025))
    for place in places:
        _blob(pen, rng, place, radius * 0.25, colour)


def _platelet(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, at: NDArray[np.float64], size: float
) -> None:
    radius = size * rng.uniform(0.07, 0.11)
    _blob(pen, rng, at, radius, _vary(rng, (196, 166, 206), 10), roughness=0.15)
    _granules(pen, rng, at, radius * 0.7, 14, size * 0.009, (130, 70, 150))


_DRAW = {
    "basophil": _basophil,
    "eosinophil": _eosinophil,
    "erythroblast": _erythroblast,
    "immature granulocyte": _immature,
    "lymphocyte": _lymphocyte,
    "monocyte": _monocyte,
    "neutrophil": _neutrophil,
    "platelet": _platelet,
}


def _blob(
    pen: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    at: NDArray[np.float64],
    radius: float,
    colour: Colour,
    roughness: float = 0.05,
) -> None:
    """Draw a disc whose edge wavers by about `roughness` of its radius."""
    angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    edge = np.ones_like(angles)
    for wave in (2, 3, 5):
        edge += roughness * rng.uniform(-1, 1) * np.sin(wave * angles + rng.uniform(0, 2 * math.pi))
    x, y = at[0] + radius * edge * np.cos(angles), at[1] + radius * edge * np.sin(angles)
    pen.polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=colour)


def _granules(
    pen: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    at: NDArray[np.float64],
    within: float,
    count: int,
    radius: float,
    colour: Colour,
) -> None:
    for _ in range(count):
        place = at + _polar(within * math.sqrt(rng.uniform(0, 1)), rng.uniform(0, 2 * math.pi))
        _disc(pen, place[0], place[1], radius * rng.uniform(0.7, 1.3), _vary(rng, colour, 14))


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _polar(radius: float, angle: float) -> NDArray[np.float64]:
    return np.array([radius * math.cos(angle), radius * math.sin(angle)])


def _vary(rng: np.random.Generator, colour: Colour, by: int) -> Colour:
    red, green, blue = (int(np.clip(value + rng.integers(-by, by + 1), 0, 255)) for value in colour)
    return red, green, blue
