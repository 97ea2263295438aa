"""A zip with one folder per class."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.infra.stat_cache import SHA256_BYTES, StatCache
from hemaflow.tasks.sources.archives import BROKEN_ZIP, MAX_RATIO, open_zip, require_zip
from hemaflow.tasks.sources.base import Scan, Source
from hemaflow.tasks.sources.images import Decoded, Unreadable, decode
from hemaflow.tasks.sources.layout import scan_class_folders
from hemaflow.tasks.sources.registry import SOURCES

MAX_MEMBER_BYTES = 200 << 20
"""The largest file in a zip that is read: an image of MAX_IMAGE_PIXELS as PNG."""
MEMBERS_AT_ONCE = 64
"""Members that a thread hashes before it takes others."""
MAX_OFFSET = 2**62
"""Forged offsets and sizes beyond this count as this."""
LOCAL_HEADER_BYTES = 30
"""Size of the header before a member, without its name (PKWARE's APPNOTE 4.3.7)."""


@SOURCES.register("zip")
class ZipSource(Source):
    """A zip with one folder per class, read in place.

    Args:
        path: The archive. Its directory is read at the first use.
        settings: Where SHA-256s are recorded; None for nowhere.
    """

    form = "a .zip with one folder per class"
    is_random_access = True

    def __init__(self, path: Path, settings: Settings | None = None) -> None:
        require_zip(path)
        self.path, self.name, self._settings = path, path.name, settings
        self._opened: _Members | None = None
        self._lock = threading.Lock()

    @classmethod
    def opened(cls, data: str, settings: Settings) -> Source | None:
        """See Source."""
        path = Path(data).expanduser()
        is_zip = path.is_file() and path.suffix.lower() == ".zip"
        return ZipSource(path, settings) if is_zip else None

    def content_digest(self) -> str:
        """See Source: the SHA-256 of the archive."""
        with StatCache(self._settings) as cache:
            return cache.file_sha256(self.path)

    def scan(self) -> Scan:
        """See Source."""
        files: list[str] = []
        folders: list[str] = []
        for name in self._members.names:
            if name.startswith("/") or "\\" in name or (".." in name and ".." in name.split("/")):
                raise DataError(
                    "The archive names a file outside of itself.",
                    received=repr(name),
                    where=str(self.path),
                    remedy="Do not use this archive unless you know who made it.",
                )
            if name.endswith("/"):
                folders.append(name.rstrip("/"))
            else:
                files.append(name)
        return scan_class_folders(files, folders, self.name)

    def identities(self, refs: Sequence[str]) -> NDArray[np.uint8]:
        """See Source: the SHA-256 of each file, kept for the archive as it is."""
        with StatCache(self._settings) as cache:
            archive_sha256 = cache.file_sha256(self.path)
            of_refs = hashlib.sha256("\0".join(refs).encode(errors="surrogateescape")).hexdigest()
            name = f"zip {archive_sha256} {of_refs}"
            found = cache.derived(name)
            if not found:
                found = self._sha256s(refs, archive_sha256)
                cache.keep_derived(name, found)
        return np.frombuffer(found, np.uint8).reshape(-1, SHA256_BYTES)

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        return self.decode(ref).pixels

    def decode(self, ref: str) -> Decoded:
        """See Source."""
        return decode(io.BytesIO(self._members.read(ref)))

    def close(self) -> None:
        """See Source."""
        if self._opened:
            self._opened.archive.close()

    @property
    def _members(self) -> _Members:
        with self._lock:
            self._opened = self._opened or _Members(open_zip(self.path))
            return self._opened

    def _sha256s(self, refs: Sequence[str], archive_sha256: str) -> bytes:
        """Return the SHA-256 of each file; one that cannot be read has a value of its own."""
        members = self._members

        def hash_some(start: int) -> bytes:
            total = bytearray()
            for ref in refs[start : start + MEMBERS_AT_ONCE]:
                try:
                    content = members.read(ref)
                except Unreadable:
                    content = f"unreadable {archive_sha256} {ref}".encode(errors="surrogateescape")
                total += hashlib.sha256(content).digest()
            return bytes(total)

        with ThreadPoolExecutor(self._settings.workers if self._settings else 1) as pool:
            return b"".join(pool.map(hash_some, range(0, len(refs), MEMBERS_AT_ONCE)))


class _Members:
    """The members of an archive in a table: `zipfile` keeps 600 bytes for each, this 50 and the name.

    Args:
        archive: The archive, whose own list is emptied.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        self.names = [member.filename for member in members]
        self._columns = {
            column: np.fromiter(
                (min(getattr(member, column), MAX_OFFSET) for member in members), np.int64, len(members)
            )
            for column in ("header_offset", "compress_size", "file_size", "CRC", "compress_type", "flag_bits")
        }
        starts = self._columns["header_offset"]
        order = np.argsort(starts)
        ends = starts + self._columns["compress_size"] + LOCAL_HEADER_BYTES
        self._overlaps = np.zeros(len(members), bool)
        self._overlaps[order[:-1]] = ends[order[:-1]] > starts[order[1:]]
        archive.filelist.clear()
        archive.NameToInfo.clear()

    def read(self, name: str) -> bytes:
        """Return the bytes of a member: of several of one name, of the last. Raises Unreadable."""
        place = bisect_right(self.names, name) - 1
        if place < 0 or self.names[place] != name:
            raise Unreadable("not in the archive")
        member = zipfile.ZipInfo(name)
        for column, values in self._columns.items():
            setattr(member, column, int(values[place]))
        if member.file_size > MAX_MEMBER_BYTES or member.file_size > MAX_RATIO * max(1, member.compress_size):
            raise Unreadable(f"declares {member.file_size} bytes, too many for an image")
        if self._overlaps[place]:
            raise Unreadable("damaged in the archive: it lies across another file")
        try:
            return self.archive.read(member)
        except (*BROKEN_ZIP, MemoryError) as error:  # LZMA asks for what memory the member declares
            raise Unreadable(f"damaged in the archive: {error or type(error).__name__}") from error
