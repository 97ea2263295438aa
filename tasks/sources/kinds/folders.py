"""A folder on disk with one folder per class."""

from __future__ import annotations

import errno
import hashlib
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.settings import Settings
from hemaflow.infra.stat_cache import SHA256_BYTES, StatCache, sha256_at
from hemaflow.tasks.sources.base import Scan, Source
from hemaflow.tasks.sources.images import Decoded, Unreadable, decode
from hemaflow.tasks.sources.layout import scan_class_folders
from hemaflow.tasks.sources.listing import Listing, below, list_folder, unreadable
from hemaflow.tasks.sources.registry import SOURCES


@SOURCES.register("folder")
class FolderSource(Source):
    """A folder with one folder per class.

    Args:
        root: The folder.
        settings: Folders outside of it that its links may lead to, and where the SHA-256s of its files are
            recorded; None for neither.
    """

    form = "a folder with one folder per class"
    is_random_access = True

    def __init__(self, root: Path, settings: Settings | None = None) -> None:
        self.root, self.name, self._settings = root, root.resolve().name, settings
        self._links_to = settings.link_folders if settings else []
        self._threads = settings.workers if settings else 1

    @classmethod
    def opened(cls, data: str, settings: Settings) -> Source | None:
        """See Source."""
        path = Path(data).expanduser()
        return FolderSource(path, settings) if path.is_dir() else None

    def content_digest(self) -> str:
        """See Source: the paths and contents of all files, and the paths of what is left out."""
        total = hashlib.sha256()
        listing = list_folder(self.root, self._links_to, self._threads)
        sha256s = self._sha256s(listing)
        for folder, place in _in_order(listing):
            names, digests = listing.folders[folder].names, sha256s[folder]
            if place is not None:
                names, digests = [names[place]], sha256_at(digests, place)
            above, digits = below(folder), digests.hex(" ", SHA256_BYTES).split()
            lines = [f"{above}{name}\0{each}\0" for name, each in zip(names, digits, strict=True)]
            total.update("".join(lines).encode())
        for finding in listing.findings:
            total.update(repr((finding.kind, finding.items)).encode())
        return total.hexdigest()

    def scan(self) -> Scan:
        """See Source."""
        listing = list_folder(self.root, self._links_to, self._threads)
        files, folders = listing.files(), [folder for folder in listing.folders if folder]
        listing.folders.clear()  # it takes as much memory as the files
        return scan_class_folders(files, folders, self.name, listing.findings)

    def identities(self, refs: Sequence[str]) -> NDArray[np.uint8]:
        """See Source: the SHA-256 of each file, recorded by its status."""
        listing = list_folder(self.root, self._links_to, self._threads)
        sha256s = self._sha256s(listing)
        found = bytearray()
        for ref in refs:
            folder, _, name = ref.rpartition("/")
            names = listing.folders[folder].names if folder in listing.folders else ()
            place = bisect_left(names, name)
            if place == len(names) or names[place] != name:
                raise unreadable(self.root / ref, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
            found += sha256_at(sha256s[folder], place)
        return np.frombuffer(found, np.uint8).reshape(-1, SHA256_BYTES)

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        return self.decode(ref).pixels

    def decode(self, ref: str) -> Decoded:
        """See Source."""
        try:
            with (self.root / ref).open("rb") as file:
                return decode(file)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error

    def _sha256s(self, listing: Listing) -> dict[str, bytes]:
        """Return the SHA-256s of the files of each folder, SHA256_BYTES each. Raises DataError."""
        root = self.root.resolve()
        try:
            with StatCache(self._settings) as cache:
                return {
                    folder: cache.folder_sha256s(root / folder, files)
                    for folder, files in listing.folders.items()
                    if files.names
                }
        except OSError as error:
            raise unreadable(Path(error.filename), error) from error


def _in_order(listing: Listing) -> Iterator[tuple[str, int | None]]:
    """Yield all files in the order of their paths: a folder with the place of one of its files, or of all."""
    holders = {folder.rpartition("/")[0] for folder in listing.folders if folder}
    runs: list[tuple[str, str, int | None]] = []
    for folder, files in listing.folders.items():
        if folder in holders:  # other paths may lie between those of its files
            runs += [(below(folder) + name, folder, place) for place, name in enumerate(files.names)]
        elif files.names:
            runs.append((below(folder), folder, None))
    for _, folder, place in sorted(runs, key=itemgetter(0)):
        yield folder, place
