"""The directory of a zip archive as a table, and the members that it lists.

`zipfile.ZipFile` keeps 600 bytes of objects for each member: too much where each image is a member and every
worker reads the directory. This keeps 49 bytes and the name. It reads what `zipfile` reads (a test compares
them), by PKWARE's APPNOTE 6.3.10, and leaves decompression and checksums to `zipfile`.

Offsets, sizes and names are checked before bytes are read by them. Members that lie across each other, as in
archives that are made to unpack without end, are not read.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from array import array
from bisect import bisect_right
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from hemaflow.infra.stat_cache import stamp
from hemaflow.tasks.sources.archives import BROKEN_ZIP, MAX_RATIO
from hemaflow.tasks.sources.images import Unreadable

MAX_MEMBER_BYTES = 200 << 20
"""The largest file in a zip that is read: an image of MAX_IMAGE_PIXELS as PNG."""
IS_ENCRYPTED, IS_UTF_8 = 0x1, 0x800
"""General purpose flags of a member (APPNOTE 4.4.4)."""
IN_EXTRA = 0xFFFFFFFF
"""What stands for a size or offset of more than 32 bits, which is in the extra field (APPNOTE 4.4.8)."""
ZIP64_EXTRA = 1
"""Kind of that extra field (APPNOTE 4.5.3)."""
MAX_COMMENT_BYTES = 0xFFFF

_LOCAL = struct.Struct("<4s2B4HL2L2H")  # APPNOTE 4.3.7
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")  # 4.3.12
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_END64_PLACE = struct.Struct("<4sLQL")  # 4.3.15
_END = struct.Struct("<4s4H2LH")  # 4.3.16


class _Place(NamedTuple):
    """Where the directory is in the file."""

    start: int
    size_bytes: int
    shift: int
    """What is to be added to the offsets in it: the size of what precedes the archive in the file."""


class ZipDirectory:
    """The members of an archive. Members can be read by several threads at once.

    Args:
        path: The archive.

    Attributes:
        names: The names of all members in order, those of folders ending in `/`; a name may be there twice.

    Raises:
        BROKEN_ZIP: It is damaged, or no zip.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            names, rows = _read_directory(self._file)
        except BaseException:
            self._file.close()
            raise
        order = sorted(range(len(names)), key=names.__getitem__)
        self.names = [names[place] for place in order]
        # uint64[N, 5]: offset, compressed size, size, CRC, method + flags × 2¹⁶.
        self._rows = np.frombuffer(rows, np.uint64).reshape(-1, 5)[order]
        starts, compressed = self._rows[:, 0], self._rows[:, 1]
        by_start = np.argsort(starts, kind="stable")
        self._overlaps = np.zeros(len(starts), np.bool_)
        ends = (starts + compressed + np.uint64(_LOCAL.size))[by_start[:-1]]
        self._overlaps[by_start[:-1]] = ends > starts[by_start[1:]]

    def close(self) -> None:
        """Close the archive."""
        self._file.close()

    def __del__(self) -> None:
        """Close the archive, as `zipfile.ZipFile` does."""
        if "_file" in self.__dict__:
            self.close()

    def stamp(self) -> bytes:
        """Return the stamp of the open archive (infra/stat_cache.py)."""
        return stamp(os.fstat(self._file.fileno()))

    def read(self, name: str) -> bytes:
        """Return the bytes of a member; of several of one name, of the last. Raises Unreadable."""
        place = bisect_right(self.names, name) - 1
        if place < 0 or self.names[place] != name:
            raise Unreadable("not in the archive")
        offset, compress_size, file_size, crc, kind = map(int, self._rows[place])
        if file_size > min(MAX_MEMBER_BYTES, MAX_RATIO * max(1, compress_size)):
            raise Unreadable(f"declares {file_size} bytes, too many for an image")
        if self._overlaps[place]:
            raise Unreadable("damaged in the archive: it lies across another member")
        member = zipfile.ZipInfo(name)
        member.compress_size, member.file_size, member.CRC = compress_size, file_size, crc
        member.compress_type, member.flag_bits = kind & 0xFFFF, kind >> 16
        try:
            compressed = io.BytesIO(self._compressed(offset, member))
            with zipfile.ZipExtFile(compressed, "r", member, None, True) as file:
                return file.read()
        except (*BROKEN_ZIP, MemoryError) as error:  # LZMA asks for what memory the member declares
            raise Unreadable(f"damaged in the archive: {error or type(error).__name__}") from error

    def _compressed(self, offset: int, member: zipfile.ZipInfo) -> bytes:
        """Return the compressed bytes of a member, whose header must repeat what the directory says."""
        number, num_bytes = self._file.fileno(), os.fstat(self._file.fileno()).st_size
        if offset + _LOCAL.size > num_bytes:
            raise zipfile.BadZipFile("it lies beyond the end")
        signature, *_, name_bytes, extra_bytes = header = _LOCAL.unpack(os.pread(number, _LOCAL.size, offset))
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile("it has no header")
        if member.flag_bits & IS_ENCRYPTED:
            raise zipfile.BadZipFile("it is encrypted")
        start = offset + _LOCAL.size
        if _name(os.pread(number, name_bytes, start), header[3]) != member.filename:
            raise zipfile.BadZipFile("its header has another name")
        start += name_bytes + extra_bytes
        if start + member.compress_size > num_bytes:
            raise zipfile.BadZipFile("it is cut off")
        return os.pread(number, member.compress_size, start)


def _read_directory(file: IO[bytes]) -> tuple[list[str], array[int]]:
    """Return the names and, five numbers each, the rows of all members. Raises BROKEN_ZIP."""
    place = _find_directory(file)
    file.seek(place.start)
    left = place.size_bytes
    names: list[str] = []
    rows = array("Q")
    while left > 0:
        entry = file.read(_ENTRY.size)
        if len(entry) < _ENTRY.size:
            raise zipfile.BadZipFile("Truncated central directory")
        signature, *_ = fields = _ENTRY.unpack(entry)
        if signature != b"PK\x01\x02":
            raise zipfile.BadZipFile("Bad magic number for central directory")
        flags, method, crc, compress_size, file_size = fields[5], fields[6], *fields[9:12]
        name_bytes, extra_bytes, comment_bytes = fields[12:15]
        tail = file.read(name_bytes + extra_bytes + comment_bytes)
        if len(tail) < name_bytes + extra_bytes + comment_bytes:
            raise zipfile.BadZipFile("Truncated central directory")
        sizes = [file_size, compress_size, fields[18]]
        if IN_EXTRA in sizes:
            _fill(sizes, tail[name_bytes : name_bytes + extra_bytes])
        offset = sizes[2] + place.shift
        if offset < 0:
            raise zipfile.BadZipFile("Bad offset in the central directory")
        names.append(_name(tail[:name_bytes], flags))
        rows.extend((offset, sizes[1], sizes[0], crc, method | flags << 16))
        left -= len(entry) + len(tail)
    return names, rows


def _find_directory(file: IO[bytes]) -> _Place:
    """Return where the directory is, by the record at the end of the archive. Raises BROKEN_ZIP."""
    num_bytes = file.seek(0, os.SEEK_END)
    start = max(0, num_bytes - _END.size - MAX_COMMENT_BYTES)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise zipfile.BadZipFile("File is not a zip file")
    *_, size, offset, _ = _END.unpack_from(tail, at)
    ends = start + at
    if ends >= _END64_PLACE.size + _END64.size:
        file.seek(ends - _END64_PLACE.size - _END64.size)
        record, place = file.read(_END64.size), file.read(_END64_PLACE.size)
        if record[:4] == b"PK\x06\x06" and place[:4] == b"PK\x06\x07":
            *_, size, offset = _END64.unpack(record)
            ends -= _END64_PLACE.size + _END64.size
    if size > ends:
        raise zipfile.BadZipFile("Bad offset for central directory")
    return _Place(ends - size, size, ends - size - offset)


def _fill(sizes: list[int], extra: bytes) -> None:
    """Put the sizes and the offset of more than 32 bits in place. Raises BROKEN_ZIP."""
    while len(extra) >= 4:
        kind, num_bytes = struct.unpack_from("<HH", extra)
        if kind == ZIP64_EXTRA:
            wide = [place for place, value in enumerate(sizes) if value == IN_EXTRA]
            values = struct.unpack_from(f"<{len(wide)}Q", extra[: 4 + num_bytes], 4)
            for place, value in zip(wide, values, strict=True):
                sizes[place] = value
            return
        extra = extra[4 + num_bytes :]


def _name(name: bytes, flags: int) -> str:
    """Return the name of a member: up to a NUL, behind which names have been hidden."""
    return name.decode("utf-8" if flags & IS_UTF_8 else "cp437").partition("\0")[0]
