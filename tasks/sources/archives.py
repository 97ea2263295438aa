"""Zip archives and the arrays of an npz, which may be damaged or malicious.

Nothing is unpickled, nothing is written next to other files, and nothing is decompressed beyond its declared
size or beyond what deflate can compress.
"""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError

MAX_ARRAY_BYTES = 64 << 30
"""Size of the largest array that is unpacked: about two million images of 96 × 96 pixels."""
MAX_RATIO = 1100
"""The most that deflate can compress is 1032 to 1 (zlib's technical details); more is a forged header."""
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,  # bz2
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What `zipfile` and numpy raise of an archive that is cut off, damaged, encrypted or of an unknown kind."""


class Header(NamedTuple):
    """Shape and type that an array in an npz declares."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


def array_names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays in an npz."""
    return [member.removesuffix(".npy") for member in archive.namelist()]


def array_header(archive: zipfile.ZipFile, name: str, path: Path) -> Header:
    """Return the header of an array in an npz, checked against what the archive holds. Raises DataError."""
    arrays = array_names(archive)
    if name not in arrays or f"{name}.npy" not in archive.namelist():
        raise DataError(
            f"The file holds no {name!r}.",
            expected="arrays called images and labels, or train_images, train_labels, val_images, …",
            received=", ".join(arrays) or "no arrays",
            where=str(path),
            remedy="Save it again with numpy.savez_compressed(path, images=…, labels=…).",
        )
    member = archive.getinfo(f"{name}.npy")
    try:
        with archive.open(member) as file:
            header, offset = _read_header(file)
    except BROKEN_ZIP as error:
        raise broken_archive(path, error) from error
    if header.dtype.hasobject:
        raise DataError(
            f"The array {name!r} holds Python objects, which may run code when they are read.",
            expected="numbers or text",
            received=str(header.dtype),
            where=str(path),
            remedy="Save it again as an array of numbers or text, without dtype=object.",
        )
    if not header.dtype.itemsize or 0 in header.shape[1:]:
        raise DataError(
            f"The array {name!r} holds nothing.",
            received=f"{header.dtype} of shape {header.shape}",
            where=str(path),
            remedy="Save it again with numpy.savez_compressed(path, images=…, labels=…).",
        )
    num_bytes = int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
    honest = num_bytes + offset == member.file_size <= MAX_RATIO * max(1, member.compress_size)
    if not honest or num_bytes > MAX_ARRAY_BYTES:
        raise DataError(
            f"The array {name!r} is not what it declares to be.",
            expected=f"{num_bytes} bytes, at most {MAX_ARRAY_BYTES}",
            received=f"{member.file_size - offset} bytes in {member.compress_size} compressed ones",
            where=str(path),
            remedy="Do not use this file unless you know who made it.",
        )
    return header


def read_array(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[np.generic]:
    """Return a small array of an npz, without pickles. Raises DataError."""
    array_header(archive, name, path)
    try:
        with archive.open(f"{name}.npy") as file:
            array: NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
            return array
    except BROKEN_ZIP as error:
        raise broken_archive(path, error) from error


def stream_rows(archive: zipfile.ZipFile, name: str, path: Path) -> Iterator[NDArray[np.generic]]:
    """Yield the rows of an array of an npz, one at a time in memory. Raises DataError."""
    header = array_header(archive, name, path)
    shape = header.shape[1:]
    num_bytes = int(np.prod(shape, dtype=object)) * header.dtype.itemsize
    try:
        with archive.open(f"{name}.npy") as file:
            _read_header(file)
            for _ in range(header.shape[0]):
                yield np.frombuffer(file.read(num_bytes), header.dtype).reshape(shape)
    except BROKEN_ZIP as error:
        raise broken_archive(path, error) from error


def _read_header(file: IO[bytes]) -> tuple[Header, int]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"npy format {version} is not known")
    try:
        shape, fortran_order, dtype = read(file)
    except Exception as error:  # numpy evaluates the header as Python text, which fails in many ways
        raise ValueError(f"the header of an array cannot be read: {error}") from error
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"an array declares the shape {shape}")
    if fortran_order:
        raise ValueError("the array is in Fortran order; save it with numpy.ascontiguousarray")
    return Header(shape, dtype), file.tell()


def require_zip(path: Path) -> None:
    """Raise DataError where a file is cut off or no zip; its directory is not read."""
    if not zipfile.is_zipfile(path):
        raise broken_archive(path, zipfile.BadZipFile("File is not a zip file"))


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive for reading. Raises DataError where it is cut off or no zip."""
    try:
        return zipfile.ZipFile(path)
    except BROKEN_ZIP as error:
        raise broken_archive(path, error) from error


def broken_archive(path: Path, error: Exception) -> DataError:
    """Return the error for an archive that cannot be read."""
    return DataError(
        "The archive cannot be read: it is cut off, damaged, or no zip at all.",
        received=str(error),
        where=str(path),
        remedy="Download or copy it again.",
    )


def undated_entry(name: str) -> zipfile.ZipInfo:
    """Return a zip entry that depends on the file's name alone: equal files give equal zips."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # the first moment that a zip can name
    entry.create_system = 3  # Unix, whatever wrote it
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry
