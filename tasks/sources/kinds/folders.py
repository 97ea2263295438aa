"""A folder on disk with one folder per class."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import file_sha256
from hemaflow.tasks.sources.base import Finding, Scan, Source
from hemaflow.tasks.sources.images import Decoded, Unreadable, decode
from hemaflow.tasks.sources.layout import scan_class_folders
from hemaflow.tasks.sources.registry import SOURCES


class Listing(NamedTuple):
    """What a folder holds, all paths relative to it and in order."""

    files: list[str]
    folders: list[str]
    findings: list[Finding]
    """What is left out: links out of the folder, names that are no text."""


@SOURCES.register("folder")
class FolderSource(Source):
    """A folder with one folder per class.

    Args:
        root: The folder.
        links_to: Folders outside of it that its links may lead to.
    """

    form = "a folder with one folder per class"

    def __init__(self, root: Path, links_to: Sequence[Path] = ()) -> None:
        self.root, self.name, self._links_to = root, root.resolve().name, links_to

    @classmethod
    def opened(cls, data: str, settings: Settings) -> Source | None:
        """See Source."""
        path = Path(data).expanduser()
        return FolderSource(path, settings.link_folders) if path.is_dir() else None

    def content_digest(self) -> str:
        """See Source: the paths and contents of all files, and the paths of what is left out."""
        total = hashlib.sha256()
        listing = list_folder(self.root, self._links_to)
        for ref in listing.files:
            try:
                total.update(f"{ref}\0{file_sha256(self.root / ref)}\0".encode())
            except OSError as error:
                raise _unreadable(self.root / ref, error) from error
        for finding in listing.findings:
            total.update(repr((finding.kind, finding.items)).encode())
        return total.hexdigest()

    def scan(self) -> Scan:
        """See Source."""
        listing = list_folder(self.root, self._links_to)
        return scan_class_folders(listing.files, listing.folders, self.name, listing.findings)

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


def list_folder(root: Path, links_to: Sequence[Path] = ()) -> Listing:
    """List the files and folders under `root`.

    Links are followed that lead to a file or folder under `root` or `links_to`, but for those that lead back
    to a folder that holds them and links to folders within linked folders: every path ends. What is left out
    is found.

    Raises:
        DataError: A folder cannot be read.
    """
    allowed = [path.expanduser().resolve() for path in (root, *links_to)]
    files: list[str] = []
    folders: list[str] = []
    left_out: dict[tuple[str, str], list[str]] = defaultdict(list)
    waiting = [("", False)]
    while waiting:
        folder, is_linked = waiting.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            raise _unreadable(root / folder, error) from error
        for entry in entries:
            ref = f"{folder}/{entry.name}" if folder else entry.name
            if not _is_text(entry.name):
                shown = ref.encode(errors="surrogateescape").decode(errors="backslashreplace")
                left_out["unreadable-name", "its name is not UTF-8: rename it"].append(shown)
                continue
            problem = _link_problem(Path(entry.path), allowed, is_linked) if entry.is_symlink() else ""
            if problem:
                left_out["link", problem].append(ref)
            elif entry.is_dir():
                folders.append(ref)
                waiting.append((ref, is_linked or entry.is_symlink()))
            elif entry.is_file():
                files.append(ref)
            else:
                left_out["ignored-file", "neither a file nor a folder"].append(ref)
    findings = [
        Finding(kind, sorted(refs), "left out", reason) for (kind, reason), refs in sorted(left_out.items())
    ]
    return Listing(sorted(files), sorted(folders), findings)


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
