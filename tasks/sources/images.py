"""Image files to pixels: decoded without harm, and brought to one size.

Nothing is decompressed beyond MAX_IMAGE_PIXELS. Any file that cannot be decoded raises Unreadable. Notes tell
what is unusual about a file that can.
"""

from __future__ import annotations

import warnings
from typing import IO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

Fit = Literal["crop", "pad", "stretch"]
"""How a picture that is not square becomes square: crop to its middle, pad with black, or stretch."""
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
MAX_IMAGE_PIXELS = 50_000_000
"""Larger than any camera of a microscope; a picture that declares more is not decompressed."""
CAMERA_BITS = (8, 10, 12, 14, 16)
"""Bits that cameras give each value; files keep more than 8 in 16."""

# Exif 2.32, tag Orientation: how the stored picture is brought upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's names for 16 bits a channel, by which it keeps the upper byte, and for the lower byte.
_LOWER_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}


class Unreadable(Exception):
    """One picture of a source cannot be read; the message says why."""


class Note(NamedTuple):
    """Something unusual about a picture that was read nevertheless."""

    kind: str
    """The kind of finding that it becomes."""
    action: str
    """What was done."""
    reason: str
    """Why."""


class Decoded(NamedTuple):
    """A picture, and what is unusual about its file."""

    pixels: NDArray[np.uint8]
    """uint8[h, w, 3] in 0..255."""
    notes: tuple[Note, ...] = ()


def decode_image(file: IO[bytes]) -> NDArray[np.uint8]:
    """Return a JPEG or PNG as uint8[h, w, 3]; see `decode`. Raises Unreadable."""
    return decode(file).pixels


def decode(file: IO[bytes]) -> Decoded:
    """Decode a JPEG or PNG; the camera's rotation is applied, transparency lies on white.

    Of 16 bits the upper eight are kept. Where a picture uses the lower 8, 10, 12 or 14 of them only, the
    upper eight of those are kept, and a note `shallow-bits` says so: it is as bright as it was taken. Where
    the camera's rotation cannot be read, the picture stays as it lies, and a note `unknown-rotation` says so.

    Args:
        file: An open file, at its beginning; it can be read twice.

    Raises:
        Unreadable: It is no such image, or declares more than MAX_IMAGE_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged metadata and of sizes that the limit below is for.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            return _decode(file)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers raise errors of all kinds where a file is damaged
        reason = "no JPEG or PNG image" if "cannot identify" in str(error) else str(error)
        raise Unreadable(reason or type(error).__name__) from error


def _decode(file: IO[bytes]) -> Decoded:
    opened = Image.open(file, formats=("JPEG", "PNG"))
    image: Image.Image = opened
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise Unreadable(f"declares {image.width} × {image.height} pixels, too many")
    layout = opened.tile[0].args if opened.tile else ""
    image.load()
    rotation, notes = _rotation(image)
    if image.mode.startswith("I"):  # 16 bits of grey, of which `convert` makes white
        image, more = _of_deep_grey(image)
    elif layout in _LOWER_BYTES:
        image, more = _of_deep_colour(image, file, _LOWER_BYTES[layout])
    else:
        more = ()
    if rotation is not None:
        image = image.transpose(rotation)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return Decoded(np.asarray(image.convert("RGB")), notes + more)


def _rotation(image: Image.Image) -> tuple[Image.Transpose | None, tuple[Note, ...]]:
    """Return the transposition that brings a picture upright; None where none is needed or readable."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return _UPRIGHT.get(orientation), ()
    except Exception as error:  # of any kind: see `decode`
        reason = f"its EXIF cannot be read: {str(error) or type(error).__name__}"
        return None, (Note("unknown-rotation", "kept as it lies", reason),)


def _of_deep_grey(image: Image.Image) -> tuple[Image.Image, tuple[Note, ...]]:
    values = np.asarray(image).astype(np.uint16)
    clear = image.info.get("transparency")
    grey, notes = _upper_bits(values)
    if not isinstance(clear, int):
        return Image.fromarray(grey), notes
    opaque = np.where(values == clear, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(opaque))), notes


def _of_deep_colour(
    image: Image.Image, file: IO[bytes], lower_bytes: str
) -> tuple[Image.Image, tuple[Note, ...]]:
    """Return a picture of 16 bits a channel with 8 bits; `image` holds the upper bytes."""
    upper = np.asarray(image).astype(np.uint16)
    if upper[..., :3].max() >> (CAMERA_BITS[-2] - 8):
        return image, ()
    file.seek(0)
    again = Image.open(file, formats=("PNG",))
    again.tile = [tile._replace(args=lower_bytes) for tile in again.tile]
    values = upper << 8 | np.asarray(again)
    colours, notes = _upper_bits(values[..., :3])
    if values.shape[2] == 4:
        opaque, _ = _upper_bits(values[..., 3:])
        return Image.fromarray(np.concatenate([colours, opaque], axis=2)), notes
    return Image.fromarray(colours), notes


def _upper_bits(values: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], tuple[Note, ...]]:
    """Return the upper 8 of the bits that values use, as many as a camera gives."""
    most = int(values.max(initial=0))
    bits = next(bits for bits in CAMERA_BITS if not most >> bits)
    bits = bits if most else CAMERA_BITS[-1]
    reason = f"its values use {bits} of the 16 bits of its file"
    notes = () if bits == CAMERA_BITS[-1] else (Note("shallow-bits", f"read as {bits} bits", reason),)
    return (values >> (bits - 8)).astype(np.uint8), notes


def fit(pixels: NDArray[np.uint8], size_pixels: int, method: Fit) -> NDArray[np.uint8]:
    """Return a picture as uint8[S, S, 3].

    Args:
        pixels: uint8[h, w, 3]. size_pixels: S. method: How a picture that is not square becomes square. Then
        it is resized, bicubic with antialiasing.
    """
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
