"""Image files that are damaged or unusual: what is read, what is told, and that nothing else is raised."""

from __future__ import annotations

import io
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from hemaflow.infra.errors import DataError
from hemaflow.tasks.inference.predict import read_image
from hemaflow.tasks.sources.images import Unreadable, decode, decode_image


def gradient(side: int = 16) -> NDArray[np.uint8]:
    return (np.arange(side * side * 3) % 251).astype(np.uint8).reshape(side, side, 3)


def saved(image: Image.Image, file_format: str, orientation: int = 0) -> bytes:
    exif = image.getexif()
    if orientation:
        exif[0x0112], exif[0x010F], exif[0x011A] = orientation, "maker", 72.5
        exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    file = io.BytesIO()
    image.save(file, file_format, exif=exif)
    return file.getvalue()


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them now."""
    fixed, place = data[:8], 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if place + 12 + size > len(data):
            break
        body = data[place + 4 : place + 8 + size]
        fixed += data[place : place + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        place += 12 + size
    return fixed + data[place:]


def png(values: NDArray[np.uint16], colour_type: int) -> bytes:
    """A PNG with 16 bits a channel of uint16[h, w, c]: Pillow writes none in colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    height, width = values.shape[:2]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, colour_type, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def garbled(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return (
        with_checksums(data.replace(old, new, 1))
        if data.startswith(b"\x89PNG")
        else data.replace(old, new, 1)
    )


# The entry of EXIF that holds the orientation, little-endian: tag 0x0112, type, count.
ORIENTATION = bytes.fromhex("1201 0300 0100 0000")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("kind", [2, 4, 5, 7, 10, 11, 12])
def test_a_picture_with_garbled_exif_is_read(file_format: str, kind: int) -> None:
    """An orientation of every type of EXIF, in its file as bytes of another."""
    image = Image.fromarray(gradient())
    data = saved(image, file_format, orientation=6)
    order = "<" if b"II*\0" in data else ">"
    assert order in "<>"
    entry = ORIENTATION if order == "<" else bytes.fromhex("0112 0003 0000 0001")
    other = entry[:2] + kind.to_bytes(2, "little" if order == "<" else "big") + entry[4:]
    decoded = decode(io.BytesIO(garbled(data, entry, other)))
    assert decoded.pixels.shape == (16, 16, 3)


def test_a_rotation_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image) -> Image.Exif:
        raise AttributeError("'float' object has no attribute 'encode'")

    data = saved(Image.fromarray(gradient()), "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "getexif", fail)
    decoded = decode(io.BytesIO(data))
    np.testing.assert_array_equal(decoded.pixels, gradient())
    assert [note.kind for note in decoded.notes] == ["unknown-rotation"]
    assert "no attribute 'encode'" in decoded.notes[0].reason


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_brought_upright(orientation: int) -> None:
    from PIL import ImageOps

    data = saved(Image.fromarray(gradient()[:10]), "PNG", orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_image(io.BytesIO(data)), np.asarray(upright))


def test_nothing_but_unreadable_is_raised_of_damaged_pictures() -> None:
    """Bytes are changed, removed, added and cut off, most of them in the headers; every time another way."""
    rng = random.Random(0)
    image = Image.fromarray(gradient())
    seeds = [
        saved(image.convert(mode), file_format, orientation)
        for file_format, modes in (
            ("PNG", ("RGB", "L", "P", "RGBA", "LA", "1")),
            ("JPEG", ("RGB", "L", "CMYK")),
        )
        for mode in modes
        for orientation in (0, 6)
    ]
    seeds += [png(np.full((9, 9, n), 900, np.uint16), kind) for n, kind in ((1, 0), (2, 4), (3, 2), (4, 6))]
    read = 0
    for _ in range(3000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(min(len(data), 400) if rng.random() < 0.7 else len(data))
            match rng.choice("cccccdaax"):
                case "c":
                    data[place] = rng.randrange(256)
                case "d":
                    del data[place : place + rng.randint(1, 8)]
                case "a":
                    data[place:place] = rng.randbytes(rng.randint(1, 8))
                case _:
                    del data[place + 1 :]
            data = data or bytearray(b"\0")
        damaged = with_checksums(bytes(data)) if data[:4] == b"\x89PNG" else bytes(data)
        try:
            pixels = decode_image(io.BytesIO(damaged))
        except Unreadable:
            continue
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
        read += 1
    assert read > 300


def test_predict_says_which_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "cell.png"
    path.write_bytes(saved(Image.fromarray(gradient()), "PNG")[:-60])
    with pytest.raises(DataError, match=r"cannot be read as an image(.|\n)*cell\.png"):
        read_image(path)


# Greys and colours of fewer bits than their file has


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shallow_pictures_are_as_bright_as_they_were_taken(bits: int, channels: int) -> None:
    deep = np.linspace(0, 2**bits - 1, 16 * 16).astype(np.uint16).reshape(16, 16, 1)
    values = np.repeat(deep, channels, axis=2)
    if channels == 4:
        values[..., 3] = 2**bits - 1
    data = png(values, {1: 0, 3: 2, 4: 6}[channels])
    decoded = decode(io.BytesIO(data))
    np.testing.assert_array_equal(decoded.pixels, np.repeat(deep >> (bits - 8), 3, axis=2))
    (note,) = decoded.notes
    assert (note.kind, note.action) == ("shallow-bits", f"read as {bits} bits")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deep_and_black_pictures_are_not_brightened(channels: int) -> None:
    values = np.zeros((8, 8, channels), np.uint16)
    for most in (0, 2**14, 2**16 - 1):
        values[0, 0] = most
        values[..., 3:] = 2**16 - 1
        decoded = decode(io.BytesIO(png(values, {1: 0, 3: 2, 4: 6}[channels])))
        assert decoded.notes == ()
        assert decoded.pixels[0, 0].tolist() == [most >> 8] * 3
        assert decoded.pixels[1:].max() == 0


def test_what_is_clear_in_deep_grey_lies_on_white() -> None:
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(file, "PNG", transparency=5000)
    pixels = decode_image(io.BytesIO(file.getvalue()))
    assert pixels[0, 5].tolist() == [255] * 3
    assert pixels[0, 6].tolist() == [6000 >> 8] * 3
