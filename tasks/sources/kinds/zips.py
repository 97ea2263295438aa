"""A zip with one folder per class."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.infra.stat_cache import SHA256_BYTES, StatCache
from hemaflow.tasks.sources.archives import BROKEN_ZIP, broken_archive, require_zip
from hemaflow.tasks.sources.base import Scan, Source
from hemaflow.tasks.sources.images import Decoded, Unreadable, decode
from hemaflow.tasks.sources.layout import scan_class_folders
from hemaflow.tasks.sources.registry import SOURCES
from hemaflow.tasks.sources.zip_directory import ZipDirectory

MEMBERS_AT_ONCE = 64
"""Members that a thread hashes before it takes others."""


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
        self._opened: ZipDirectory | None = None
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
        of_refs = hashlib.sha256("\0".join(refs).encode(errors="surrogateescape")).hexdigest()
        with StatCache(self._settings) as cache:
            found = cache.derived(self.path, f"zip {of_refs}", lambda sha256: self._sha256s(refs, sha256))
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
            self._opened.close()

    @property
    def _members(self) -> ZipDirectory:
        with self._lock:
            if self._opened is None:
                try:
                    self._opened = ZipDirectory(self.path)
                except BROKEN_ZIP as error:
                    raise broken_archive(self.path, error) from error
            return self._opened

    def _sha256s(self, refs: Sequence[str], archive_sha256: str) -> tuple[bytes, bytes]:
        """Return the SHA-256 of each file, and the stamp of the open archive.

        A file that cannot be read has a value of its own.
        """
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
            found = b"".join(pool.map(hash_some, range(0, len(refs), MEMBERS_AT_ONCE)))
        return found, members.stamp()
