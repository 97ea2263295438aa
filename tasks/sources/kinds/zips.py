"""A zip with one folder per class."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import file_sha256
from hemaflow.tasks.sources.archives import BROKEN_ZIP, MAX_RATIO, open_zip
from hemaflow.tasks.sources.base import Scan, Source
from hemaflow.tasks.sources.images import Decoded, Unreadable, decode
from hemaflow.tasks.sources.layout import scan_class_folders
from hemaflow.tasks.sources.registry import SOURCES

MAX_MEMBER_BYTES = 200 << 20
"""The largest file in a zip that is read: an image of MAX_IMAGE_PIXELS as PNG."""


@SOURCES.register("zip")
class ZipSource(Source):
    """A zip with one folder per class, read in place."""

    form = "a .zip with one folder per class"

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self._archive = open_zip(path)

    @classmethod
    def opened(cls, data: str, settings: Settings) -> Source | None:
        """See Source."""
        path = Path(data).expanduser()
        return ZipSource(path) if path.is_file() and path.suffix.lower() == ".zip" else None

    def content_digest(self) -> str:
        """See Source."""
        return file_sha256(self.path)

    def scan(self) -> Scan:
        """See Source."""
        files: list[str] = []
        folders: list[str] = []
        for member in self._archive.infolist():
            parts = PurePosixPath(member.filename).parts
            if member.filename.startswith("/") or ".." in parts or "\\" in member.filename:
                raise DataError(
                    "The archive names a file outside of itself.",
                    received=repr(member.filename),
                    where=str(self.path),
                    remedy="Do not use this archive unless you know who made it.",
                )
            (folders if member.is_dir() else files).append(member.filename.rstrip("/"))
        return scan_class_folders(sorted(files), folders, self.name)

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        return self.decode(ref).pixels

    def decode(self, ref: str) -> Decoded:
        """See Source."""
        member = self._archive.getinfo(ref)
        if member.file_size > MAX_MEMBER_BYTES or member.file_size > MAX_RATIO * max(1, member.compress_size):
            raise Unreadable(f"declares {member.file_size} bytes, too many for an image")
        try:
            data = self._archive.read(member)
        except (*BROKEN_ZIP, MemoryError) as error:  # LZMA asks for what memory the member declares
            raise Unreadable(f"damaged in the archive: {error or type(error).__name__}") from error
        return decode(io.BytesIO(data))

    def close(self) -> None:
        """See Source."""
        self._archive.close()
