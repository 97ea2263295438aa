"""What a folder on disk holds: its files with their status, its folders, and what is left out.

Several threads list folders at once: most of the time is the kernel's. An entry is asked for its status while
the folder is read, and then forgotten: memory grows by the name and the stamp of a file.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hemaflow.infra.errors import DataError
from hemaflow.infra.stat_cache import STAMP_BYTES, Files, stamp
from hemaflow.tasks.sources.base import Finding

MAX_THREADS = 4
"""Threads that list folders; more wait for each other."""
FOLDERS_AT_ONCE = 256
"""Folders that are listed at once; bounds the memory."""


class Listing(NamedTuple):
    """What a folder holds, all paths relative to it."""

    folders: dict[str, Files]
    """Every folder with its own files, in the order of their names; "" is the folder itself."""
    findings: list[Finding]
    """What is left out: links out of the folder, names that are no text."""

    def files(self) -> list[str]:
        """Return the paths of all files, in order."""
        return sorted(below(folder) + name for folder, files in self.folders.items() for name in files.names)


class _Folder(NamedTuple):
    """A folder to list, and whether the path to it goes through a link."""

    path: str
    is_linked: bool


class _Listed(NamedTuple):
    """What one folder holds."""

    path: str
    files: Files
    folders: list[_Folder]
    left_out: list[tuple[str, str, str]]
    """Kind, reason and path of what is left out."""


def list_folder(root: Path, links_to: Sequence[Path] = (), num_threads: int = 1) -> Listing:
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
    waiting = [_Folder("", False)]
    with ThreadPoolExecutor(min(num_threads, MAX_THREADS)) as pool:
        while waiting:
            batch = waiting[-FOLDERS_AT_ONCE:]
            del waiting[-FOLDERS_AT_ONCE:]
            for listed in pool.map(lambda folder: _list_one(root, folder, allowed), batch):
                folders[listed.path] = listed.files
                waiting += listed.folders
                for kind, reason, path in listed.left_out:
                    left_out[kind, reason].append(path)
    findings = [
        Finding(kind, sorted(paths), "left out", reason) for (kind, reason), paths in sorted(left_out.items())
    ]
    return Listing(folders, findings)


def below(folder: str) -> str:
    """Return what the paths of the files in a folder begin with."""
    return f"{folder}/" if folder else ""


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the error for a file or folder that cannot be read."""
    return DataError(
        "A part of the data cannot be read.",
        received=error.strerror or str(error),
        where=str(path),
        remedy="Change its permissions, or remove it.",
    )


def _list_one(root: Path, folder: _Folder, allowed: Sequence[Path]) -> _Listed:
    above = below(folder.path)
    names: list[str] = []
    stamps = bytearray()
    folders: list[_Folder] = []
    left_out: list[tuple[str, str, str]] = []
    for entry in _entries(root / folder.path):
        if not _is_text(entry.name):
            shown = (above + entry.name).encode(errors="surrogateescape").decode(errors="backslashreplace")
            left_out.append(("unreadable-name", "its name is not UTF-8: rename it", shown))
            continue
        is_link = entry.is_symlink()
        problem = _link_problem(Path(entry.path), allowed, folder.is_linked) if is_link else ""
        if problem:
            left_out.append(("link", problem, above + entry.name))
        elif entry.is_file():
            try:
                stamps += stamp(entry.stat())
            except FileNotFoundError:  # removed since it was listed
                continue
            except OSError as error:
                raise unreadable(Path(entry.path), error) from error
            names.append(entry.name)
        elif entry.is_dir():
            folders.append(_Folder(above + entry.name, folder.is_linked or is_link))
        else:
            left_out.append(("ignored-file", "neither a file nor a folder", above + entry.name))
    order = sorted(range(len(names)), key=names.__getitem__)
    of_each = np.frombuffer(stamps, np.uint8).reshape(-1, STAMP_BYTES)
    files = Files([names[place] for place in order], of_each[order].tobytes())
    return _Listed(folder.path, files, folders, left_out)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what a folder holds, one at a time: an entry keeps the status that it was asked for."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise unreadable(folder, error) from error


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
