"""The directory of a zip, beside the one that Python's zipfile reads, of whole and of damaged archives."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from pathlib import Path

import pytest

from hemaflow.tasks.sources.archives import BROKEN_ZIP
from hemaflow.tasks.sources.images import Unreadable
from hemaflow.tasks.sources.zip_directory import ZipDirectory

RNG = random.Random(0)
FILES = {"b/ä.png": RNG.randbytes(900), "a/1.png": b"a" * 3000, "b/": b"", "a/2 é.png": b"", "c.txt": b"text"}
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def zipped(method: int, before: bytes = b"", comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    file.write(before)
    with zipfile.ZipFile(file, "a", method) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        archive.comment = comment
    return file.getvalue()


def by_zipfile(path: Path) -> dict[str, bytes | None]:
    """Name → content; None where it cannot be read."""
    found: dict[str, bytes | None] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            try:
                found[name] = archive.read(name)
            except (*BROKEN_ZIP, MemoryError):
                found[name] = None
    return found


def by_directory(path: Path) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    directory = ZipDirectory(path)
    for name in directory.names:
        try:
            found[name] = directory.read(name)
        except Unreadable:
            found[name] = None
    directory.close()
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("before", "comment"), [(b"", b""), (b"#!/bin/sh\n" * 9, b""), (b"", b"cells " * 99)]
)
def test_members_are_those_of_zipfile(tmp_path: Path, method: int, before: bytes, comment: bytes) -> None:
    path = tmp_path / "cells.zip"
    path.write_bytes(zipped(method, before, comment))
    assert by_directory(path) == by_zipfile(path) == FILES
    assert ZipDirectory(path).names == sorted(FILES)


def test_sizes_and_offsets_of_64_bits_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in archives of more than 65,535 members or 4 GiB."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    path = tmp_path / "cells.zip"
    path.write_bytes(zipped(zipfile.ZIP_STORED, b"before" * 50))
    assert b"PK\x06\x06" in path.read_bytes()
    assert by_directory(path) == by_zipfile(path) == FILES


def test_of_two_members_of_one_name_the_last_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cells.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", b"first")
        for content in (b"second", b"third"):
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("a/1.png", content)
    directory = ZipDirectory(path)
    assert directory.names == ["a/1.png"] * 3
    assert directory.read("a/1.png") == b"third"
    with pytest.raises(Unreadable, match="not in the archive"):
        directory.read("a/2.png")


@pytest.mark.parametrize("method", METHODS)
def test_damaged_archives_are_read_as_zipfile_reads_them_or_refused(tmp_path: Path, method: int) -> None:
    """Bytes are changed, removed and added; what both read is the same, and only BROKEN_ZIP is raised."""
    rng, path = random.Random(method), tmp_path / "cells.zip"
    whole = zipped(method, comment=b"x" * 40)
    num_same = num_refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(damaged) * 3 // 4, len(damaged)) if rng.random() < 0.8 else 0
            place = place or rng.randrange(len(damaged))
            match rng.choice("cccda"):
                case "c":
                    damaged[place] = rng.choice([0, 0xFF, rng.randrange(256)])
                case "d":
                    del damaged[place : place + rng.randint(1, 30)]
                case _:
                    damaged[place:place] = rng.randbytes(rng.randint(1, 4))
        path.write_bytes(damaged)
        try:
            expected = by_zipfile(path)
        except BROKEN_ZIP:
            expected = {}
        try:
            found = by_directory(path)
        except BROKEN_ZIP:
            num_refused += 1
            continue
        for name in expected.keys() & found.keys():
            if found[name] is not None and expected[name] is not None:
                assert found[name] == expected[name]
                num_same += 1
        assert {content for content in found.values() if content} <= set(FILES.values()) | {None}
    assert num_same > 200
    assert num_refused > 20


def test_members_across_each_other_are_not_read(tmp_path: Path) -> None:
    """The second entry of the directory is made to name the bytes of the first as its own."""
    data = bytearray(zipped(zipfile.ZIP_STORED))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        first, second = archive.infolist()[:2]
        start = archive.start_dir
    entry = data.index(b"PK\x01\x02", start)
    struct.pack_into("<2L", data, entry + 20, second.header_offset + 50, second.header_offset + 50)
    path = tmp_path / "cells.zip"
    path.write_bytes(data)
    directory = ZipDirectory(path)
    with pytest.raises(Unreadable, match="across another member"):
        directory.read(first.filename)
    assert directory.read(second.filename) == FILES[second.filename]


def test_encrypted_members_are_told(tmp_path: Path) -> None:
    data = bytearray(zipped(zipfile.ZIP_STORED))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path = tmp_path / "cells.zip"
    path.write_bytes(data)
    with pytest.raises(Unreadable, match="encrypted"):
        ZipDirectory(path).read("b/ä.png")
