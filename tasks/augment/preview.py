"""The preview sheet: pictures of training examples with their labels, a row for each class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TILE_PIXELS = 112
"""Width and height of each picture on the sheet."""
CAPTION_PIXELS = 32
"""Height of the two lines below a picture."""
NAME_PIXELS = 150
"""Width of the column with the class names."""
GAP_PIXELS = 8
"""Space between pictures."""
SHARE_SHOWN = 0.01
"""Smallest share of a label that the caption names."""


class Example(NamedTuple):
    """One picture of the sheet."""

    title: str
    image: NDArray[np.uint8]
    """uint8[H, W, 3]."""
    label: NDArray[np.float32]
    """float32[C], a distribution over the classes."""


def draw_sheet(rows: Sequence[tuple[str, Sequence[Example]]], classes: Sequence[str]) -> bytes:
    """Return the sheet as a PNG. The same examples always give the same bytes.

    Args:
        rows: Each row's name and pictures.
        classes: The class names, in label order.
    """
    from PIL import Image, ImageDraw, ImageFont

    pitch, height = TILE_PIXELS + GAP_PIXELS, TILE_PIXELS + CAPTION_PIXELS + GAP_PIXELS
    num_columns = max((len(examples) for _, examples in rows), default=0)
    sheet = Image.new("RGB", (NAME_PIXELS + num_columns * pitch, GAP_PIXELS + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    name_font, font = ImageFont.load_default(15), ImageFont.load_default(10)
    for row, (name, examples) in enumerate(rows):
        top = GAP_PIXELS + row * height
        for line, word in enumerate(_lines(name)):
            draw.text((GAP_PIXELS, top + TILE_PIXELS // 2 - 10 + 18 * line), word, "black", name_font)
        for column, example in enumerate(examples):
            left = NAME_PIXELS + column * pitch
            tile = Image.fromarray(example.image).resize((TILE_PIXELS, TILE_PIXELS), Image.Resampling.BICUBIC)
            sheet.paste(tile, (left, top))
            draw.text((left, top + TILE_PIXELS + 3), example.title, "black", font)
            caption = _caption(example.label, classes)
            while draw.textlength(caption, font) > TILE_PIXELS:
                caption = caption[:-2] + "…"
            draw.text((left, top + TILE_PIXELS + 15), caption, "dimgray", font)
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return data.getvalue()


def _lines(name: str) -> list[str]:
    """Break a class name at spaces and underscores into lines of about 16 letters."""
    lines = [""]
    for word in name.replace("_", " ").split():
        if lines[-1] and len(lines[-1]) + len(word) > 16:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _caption(label: NDArray[np.float32], classes: Sequence[str]) -> str:
    """Return e.g. "63 % basophil, 37 % monocyte"; "" for a label that is all one class."""
    order = [int(k) for k in np.argsort(-label, kind="stable") if label[k] >= SHARE_SHOWN]
    return "" if len(order) == 1 else ", ".join(f"{100 * label[k]:.0f} % {classes[k]}" for k in order)
