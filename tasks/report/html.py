"""What all HTML pages share: templates, number formats, pictures.

Guarantees: no script, no external resource; every text from data is escaped; a page contains its pictures.
"""

from __future__ import annotations

import base64
import io
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.sources.images import fit

if TYPE_CHECKING:
    import jinja2


COLOURS, STRENGTH = "inferno", 0.7
"""Colour map of matplotlib for heat maps, and its opacity over the grey image."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image in grey under its map: uint8[H, W, 3] and float32[H, W] in 0..1 to uint8[H, W, 3]."""
    from matplotlib import colormaps

    levels = np.clip(np.rint(heat * 255), 0, 255).astype(np.uint8)
    colours = (colormaps[COLOURS](np.arange(256))[:, :3] * 255).astype(np.float32)[levels]
    grey = (image.astype(np.float32) @ np.array(LUMA, np.float32))[..., None]
    return np.clip(np.rint((1 - STRENGTH) * grey + STRENGTH * colours), 0, 255).astype(np.uint8)


PERCENT_SIGN = "\N{NO-BREAK SPACE}%"
TILE_PIXELS = 128
"""Maximum height and width of a small picture."""


def environment(*folders: Path) -> jinja2.Environment:
    """Return the jinja2 environment for the templates in some folders; the report's are always found."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, *folders]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(percent=percent, count=count, number=number)
    return made


def percent(value: object, digits: int = 1) -> str:
    """Return e.g. "97.8 %", never rounding up to a perfect 100 %; "–" where there is no number."""
    if not is_number(value):
        return "–"
    text = f"{100 * value:.{digits}f}"
    if value < 1 and float(text) == 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return text + PERCENT_SIGN


def number(value: object, digits: int = 3) -> str:
    """Return e.g. "0.978"; "–" where there is no number."""
    return f"{value:.{digits}f}" if is_number(value) else "–"


def count(value: int) -> str:
    """Return e.g. "11 959", with a narrow space."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether there is a finite number to print."""
    return isinstance(value, int | float) and isfinite(value)


def picture_uri(image: NDArray[np.uint8]) -> str:
    """Return uint8[H, W, 3] as an address that holds the picture itself, a PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image, np.uint8)).save(out, "PNG", compress_level=9)
    return png_uri(out.getvalue())


def png_uri(png: bytes) -> str:
    """Return the bytes of a PNG as an address that holds them."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def small(image: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Return an image reduced to TILE_PIXELS, so that a page of many pictures stays small."""
    return (
        np.zeros((1, 1, 3), np.uint8) if image is None else fit(image, min(TILE_PIXELS, len(image)), "crop")
    )
