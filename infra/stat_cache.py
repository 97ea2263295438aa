"""SHA-256 of source files, remembered by the status of each file: what did not change is not read again.

A database on this machine (infra/stat_database.py) keeps the names of the files of each folder, and of each
file a stamp and its SHA-256. The stamp is what the file system says of the file: device, inode, size, mtime
and ctime. A file whose stamp is the recorded one has the recorded SHA-256. Programs can set mtime back, but
not ctime.

A file that was changed so recently that another change could leave the same stamp is not recorded: its mtime
and ctime must be RACY_NANOSECONDS older than the moment at which hashing it began. Git calls such files
racily clean (Documentation/technical/racy-git.txt). Nor is a file whose stamp changes while it is read.

Not noticed, as in git: a program that maps a file into memory and goes on writing to it, where the kernel
updates no time; a network file system whose clock is behind and that counts whole seconds.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.settings import Settings
from hemaflow.infra.stat_database import Row, StatDatabase

RACY_NANOSECONDS = 2_000_000_000
"""Coarsest step of the times that a file system keeps: FAT, 2 seconds (Microsoft's FAT specification)."""
SHA256_BYTES = 32
FILES_AT_ONCE = 64
"""Files that a thread hashes before it takes others."""
WHOLE_BYTES = 1 << 20
"""Files up to this size are read at once."""
_STAMP = struct.Struct("<QQqqq")
STAMP_BYTES = _STAMP.size
_NO_STAMP = bytes(STAMP_BYTES)
"""Stamp of a file whose status does not fit: it is never recorded."""
_DERIVED = b"\0"
"""First byte of the keys of derived bytes; no path has it."""


class Files(NamedTuple):
    """The files of one folder."""

    names: Sequence[str]
    """Their names, in order."""
    stamps: bytes
    """The stamp of each, STAMP_BYTES long, as it was when they were listed."""


def stamp(status: os.stat_result) -> bytes:
    """Return the stamp of a file: STAMP_BYTES bytes, equal only while the file is unchanged."""
    try:
        return _STAMP.pack(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )
    except struct.error:  # a time after the year 2262
        return _NO_STAMP


def is_settled(stamp: bytes, moment: int) -> bool:
    """Return whether every change of a file after a moment (nanoseconds since 1970) leaves another stamp."""
    *_, mtime, ctime = _STAMP.unpack(stamp)
    return stamp != _NO_STAMP and max(mtime, ctime) + RACY_NANOSECONDS < moment


def sha256_at(sha256s: bytes, place: int) -> bytes:
    """Return one of several SHA-256s that `StatCache` gives, by its place from 0."""
    return sha256s[place * SHA256_BYTES : (place + 1) * SHA256_BYTES]


class StatCache:
    """The SHA-256s that are recorded on this machine. Use as a context manager, in one thread.

    Args:
        settings: Where the database is, how large it may become, and how many threads hash; None for no
            database: every file is read.
    """

    def __init__(self, settings: Settings | None) -> None:
        self._threads = settings.workers if settings else 1
        self._database = StatDatabase(settings) if settings else None

    def __enter__(self) -> StatCache:
        """Open the database."""
        if self._database:
            self._database.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Record what is new, and close the database."""
        if self._database:
            self._database.__exit__()

    def folder_sha256s(self, folder: Path, files: Files) -> bytes:
        """Return the SHA-256 of each file of a folder, SHA256_BYTES each, in the order of their names.

        Args:
            folder: The folder, absolute and without links.
            files: All its files that count: those that an earlier call had and this one lacks are forgotten.

        Raises:
            OSError: A file cannot be read; its `filename` is the file.
        """
        return self._sha256s(os.fsencode(folder), folder, files)

    def file_sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file, in hexadecimal digits. Raises OSError."""
        path = path.resolve()
        files = Files([path.name], stamp(path.stat()))
        return self._sha256s(os.fsencode(path), path.parent, files).hex()

    def derived(self, path: Path, what: str, make: Callable[[str], tuple[bytes, bytes]]) -> bytes:
        """Return what follows from the content of a file, made once.

        Args:
            path: The file.
            what: Says what it is, with all that it depends on beside that content.
            make: Makes it, given the SHA-256 of the file; returns it with the stamp that the file had when it
                was opened. It is kept only if the file did not change from then to the end.

        Raises:
            OSError: The file cannot be read.
        """
        before, began = stamp(path.stat()), time.time_ns()
        sha256 = self.file_sha256(path)
        key = _DERIVED + hashlib.sha256(f"{what} {sha256}".encode()).digest()
        row = self._database.load(key) if self._database else None
        if row:
            return row.sha256s
        content, opened = make(sha256)
        if self._database and opened == before == stamp(path.stat()) and is_settled(before, began):
            self._database.note(key, Row(b"", b"", content))
        return content

    def _sha256s(self, key: bytes, folder: Path, files: Files) -> bytes:
        names = os.fsencode("\0".join(files.names))
        recorded = self._database.load(key) if self._database else None
        if recorded and recorded.names == names and recorded.stamps == files.stamps:
            return recorded.sha256s
        sha256s, is_sure = _unchanged(recorded, files)
        places = np.flatnonzero(~is_sure)
        for place, (sha256, is_kept) in zip(places, self._hash(folder, files, places), strict=True):
            sha256s[place], is_sure[place] = np.frombuffer(sha256, np.uint8), is_kept
        kept = Row(
            os.fsencode("\0".join(compress(files.names, is_sure))),
            _parts(files.stamps, STAMP_BYTES)[is_sure].tobytes(),
            sha256s[is_sure].tobytes(),
        )
        if self._database and kept != recorded:
            self._database.note(key, kept)
        return sha256s.tobytes()

    def _hash(self, folder: Path, files: Files, places: NDArray[np.int64]) -> Iterator[tuple[bytes, bool]]:
        """Read files; yield of each its SHA-256, and whether its stamp stands for it."""

        def hash_some(start: int) -> list[tuple[bytes, bool]]:
            return [
                _hashed(
                    os.path.join(folder, files.names[place]),
                    files.stamps[place * STAMP_BYTES : (place + 1) * STAMP_BYTES],
                )
                for place in places[start : start + FILES_AT_ONCE].tolist()
            ]

        starts = range(0, len(places), FILES_AT_ONCE)
        if len(starts) < 2 or self._threads < 2:
            yield from (each for start in starts for each in hash_some(start))
            return
        with ThreadPoolExecutor(self._threads) as pool:
            yield from (each for some in pool.map(hash_some, starts) for each in some)


def _unchanged(recorded: Row | None, files: Files) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return uint8[N, 32], the recorded SHA-256s, and bool[N], whether a file has one: by its stamp."""
    sha256s = np.zeros((len(files.names), SHA256_BYTES), np.uint8)
    is_sure = np.zeros(len(files.names), np.bool_)
    if recorded and recorded.stamps:
        places = {name: place for place, name in enumerate(os.fsdecode(recorded.names).split("\0"))}
        former = np.array([places.get(name, -1) for name in files.names], np.int64)
        now, then = _parts(files.stamps, STAMP_BYTES), _parts(recorded.stamps, STAMP_BYTES)
        is_sure = (former >= 0) & (now == then[former]).all(axis=1)
        sha256s[is_sure] = _parts(recorded.sha256s, SHA256_BYTES)[former[is_sure]]
    return sha256s, is_sure


def _hashed(path: str, listed: bytes) -> tuple[bytes, bool]:
    """Return the SHA-256 of a file, and whether the stamp it was listed with stands for that content."""
    began = time.time_ns()
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_size <= WHOLE_BYTES:
                sha256 = hashlib.sha256(file.read()).digest()
            else:
                sha256 = hashlib.file_digest(file, "sha256").digest()
            is_same = stamp(status) == stamp(os.fstat(file.fileno())) == listed
    except OSError as error:
        error.filename = error.filename or path
        raise
    return sha256, is_same and is_settled(listed, began)


def _parts(content: bytes, size_bytes: int) -> NDArray[np.uint8]:
    """Return bytes as uint8[N, size_bytes]."""
    return np.frombuffer(content, np.uint8).reshape(-1, size_bytes)
