"""A folder on disk with one folder per class."""

from __future__ import annotations

import errno
import hashlib
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.infra.stat_cache import Files, StatCache, sha256_at, stamp
from hemaflow.tasks.sources.base import Finding, Scan, Source, as_identities
from hemaflow.tasks.sources.images import Decoded, Unreadable, decode
from hemaflow.tasks.sources.layout import scan_class_folders
from hemaflow.tasks.sources.registry import SOURCES


class Listing(NamedTuple):
    """What a folder holds, all paths relative to it."""

    folders: dict[str, Files]
    """Every folder with its own files, in the order of their names; "" is the folder itself."""
    findings: list[Finding]
    """What is left out: links out of the folder, names that are no text."""

    def files(self) -> list[str]:
        """Return the paths of all files, in order."""
        return sorted(_below(folder) + name for folder, files in self.folders.items() for name in files.names)


@SOURCES.register("folder")
class FolderSource(Source):
    """A folder with one folder per class.

    Args:
        root: The folder.
        settings: Folders outside of it that its links may lead to, and where the SHA-256s of its files are
            recorded; None for none of both.
    """

    form = "a folder with one folder per class"

    def __init__(self, root: Path, settings: Settings | None = None) -> None:
        self.root, self.name, self._settings = root, root.resolve().name, settings
        self._links_to = settings.link_folders if settings else []

    @classmethod
    def opened(cls, data: str, settings: Settings) -> Source | None:
        """See Source."""
        path = Path(data).expanduser()
        return FolderSource(path, settings) if path.is_dir() else None

    def content_digest(self) -> str:
        """See Source: the paths and contents of all files, and the paths of what is left out."""
        total = hashlib.sha256()
        listing = list_folder(self.root, self._links_to)
        sha256s = self._sha256s(listing)
        for folder, places in _in_order(listing):
            names, digests, above = listing.folders[folder].names, sha256s[folder], _below(folder)
            lines = (f"{above}{names[place]}\0{sha256_at(digests, place).hex()}\0" for place in places)
            total.update("".join(lines).encode())
        for finding in listing.findings:
            total.update(repr((finding.kind, finding.items)).encode())
        return total.hexdigest()

    def scan(self) -> Scan:
        """See Source."""
        listing = list_folder(self.root, self._links_to)
        folders = [folder for folder in listing.folders if folder]
        return scan_class_folders(listing.files(), folders, self.name, listing.findings)

    def identities(self, refs: Sequence[str]) -> NDArray[np.uint8]:
        """See Source: the SHA-256 of each file, recorded by its status."""
        listing = list_folder(self.root, self._links_to)
        sha256s = self._sha256s(listing)
        found = bytearray()
        for ref in refs:
            folder, _, name = ref.rpartition("/")
            names = listing.folders[folder].names if folder in listing.folders else ()
            place = bisect_left(names, name)
            if place == len(names) or names[place] != name:
                raise _unreadable(self.root / ref, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
            found += sha256_at(sha256s[folder], place)
        return as_identities(found)

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
            raise _unreadable(Path(error.filename), error) from error


def list_folder(root: Path, links_to: Sequence[Path] = ()) -> Listing:
    """List the files and folders under `root`.

    Links are followed that lead to a file or folder under `root` or `links_to`, but for those that lead back
    to a folder that holds them and links to folders within linked folders: every path ends. What is left out
    is found.

    Raises:
        DataError: A folder or a file cannot be read.
    """
    allowed = [path.expanduser().resolve() for path in (root, *links_to)]
    folders: dict[str, Files] = {}
    left_out: dict[tuple[str, str], list[str]] = defaultdict(list)
    waiting = [("", False)]
    while waiting:
        folder, is_linked = waiting.pop()
        files: list[tuple[str, bytes]] = []
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            raise _unreadable(root / folder, error) from error
        for entry in entries:
            if not _is_text(entry.name):
                shown = (_below(folder) + entry.name).encode(errors="surrogateescape")
                reason = "its name is not UTF-8: rename it"
                left_out["unreadable-name", reason].append(shown.decode(errors="backslashreplace"))
                continue
            if entry.is_file(follow_symlinks=False):  # nearly all of them
                files += _stamped(entry)
                continue
            ref = _below(folder) + entry.name
            problem = _link_problem(Path(entry.path), allowed, is_linked) if entry.is_symlink() else ""
            if problem:
                left_out["link", problem].append(ref)
            elif entry.is_dir():
                waiting.append((ref, is_linked or entry.is_symlink()))
            elif entry.is_file():
                files += _stamped(entry)
            else:
                left_out["ignored-file", "neither a file nor a folder"].append(ref)
        files.sort()
        folders[folder] = Files([name for name, _ in files], b"".join(each for _, each in files))
    findings = [
        Finding(kind, sorted(refs), "left out", reason) for (kind, reason), refs in sorted(left_out.items())
    ]
    return Listing(folders, findings)


def _stamped(entry: os.DirEntry[str]) -> list[tuple[str, bytes]]:
    """Return the name and stamp of a file; nothing where it was removed since. Raises DataError."""
    try:
        return [(entry.name, stamp(entry.stat()))]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(Path(entry.path), error) from error


def _below(folder: str) -> str:
    """Return what the paths of the files in a folder begin with."""
    return f"{folder}/" if folder else ""


def _in_order(listing: Listing) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield all files in the order of their paths: folders, each with the places of some of its files."""
    holders = {folder.rpartition("/")[0] for folder in listing.folders if folder}
    runs: list[tuple[str, str, Sequence[int]]] = []
    for folder, files in listing.folders.items():
        if not files.names:
            continue
        if folder in holders:  # other paths may lie between those of its files
            runs += [(_below(folder) + name, folder, (place,)) for place, name in enumerate(files.names)]
        else:
            runs.append((_below(folder), folder, range(len(files.names))))
    for _, folder, places in sorted(runs, key=itemgetter(0)):
        yield folder, places


def _link_problem(link: Path, allowed: Sequence[Path], is_linked: bool) -> str:
    """Return why a link is not followed; "" where it is."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle of links
        return "a link that leads nowhere"
    if not any(target.is_relative_to(folder) for folder in allowed):
        folder = target if target.is_dir() else target.parent
        return f"a link out of the data; to follow it, set HEMAFLOW_LINKS_TO={folder}"
    if target.is_dir() and link.parent.resolve().is_relative_to(target):
        return "a link back to a folder that holds it"
    return "a link to a folder within a linked folder" if target.is_dir() and is_linked else ""


def _is_text(name: str) -> bool:
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        "A part of the data cannot be read.",
        received=error.strerror or str(error),
        where=str(path),
        remedy="Change its permissions, or remove it.",
    )
