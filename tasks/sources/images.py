"""Image files to pixels: decoded without harm, and brought to one size.

Nothing is decompressed beyond MAX_IMAGE_PIXELS.
"""

from __future__ import annotations

import warnings
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

Fit = Literal["crop", "pad", "stretch"]
"""What is done with a picture that is not square: keep its middle, add black, or distort it."""
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
MAX_IMAGE_PIXELS = 50_000_000
"""Larger than any camera of a microscope; a picture that declares more is refused unopened."""


class Unreadable(Exception):
    """One picture of a source cannot be read; the message says why."""


def decode_image(file: IO[bytes]) -> NDArray[np.uint8]:
    """Return a JPEG or PNG as uint8[h, w, 3]; the camera's rotation is applied, transparency lies on white.

    Of 16 bits a pixel the upper eight are kept, in grey as Pillow itself does it in colour.

    Raises:
        Unreadable: It is no such image, or declares more than MAX_IMAGE_PIXELS.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            image = Image.open(file, formats=("JPEG", "PNG"))
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise Unreadable(f"declares {image.width} × {image.height} pixels, too many")
            upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            paper = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(paper, upright)
        if upright.mode.startswith("I"):  # 16 bits of grey, of which `convert` makes white
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = "no JPEG or PNG image" if "cannot identify" in str(error) else str(error)
        raise Unreadable(reason) from error


def fit(pixels: NDArray[np.uint8], size_pixels: int, method: Fit) -> NDArray[np.uint8]:
    """Return a picture as uint8[S, S, 3].

    Args:
        pixels: uint8[h, w, 3].
        size_pixels: S.
        method: What is done with a picture that is not square. Then it is resized, bicubic with antialiasing.
    """
    from PIL import Image, ImageOps

    if pixels.shape[:2] == (size_pixels, size_pixels):
        return pixels
    if method == "crop":
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    image, size = Image.fromarray(pixels), (size_pixels, size_pixels)
    bicubic = Image.Resampling.BICUBIC
    if method == "pad":
        return np.asarray(ImageOps.pad(image, size, bicubic))
    return np.asarray(image.resize(size, bicubic))
