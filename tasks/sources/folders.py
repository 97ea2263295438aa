"""Sources with one folder per class: on disk, or under a prefix of an S3 bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import file_sha256
from hemaflow.tasks.core.facts import Split
from hemaflow.tasks.sources.base import Finding, Item, Scan, Source, _enough
from hemaflow.tasks.sources.images import IMAGE_SUFFIXES, Decoded, Unreadable, decode

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class FolderSource(Source):
    """A folder with one folder per class."""

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, root.resolve().name

    def content_digest(self) -> str:
        """See Source: the paths and contents of all files."""
        total = hashlib.sha256()
        for ref in self._files():
            total.update(f"{ref}\0{file_sha256(self.root / ref)}\0".encode())
        return total.hexdigest()

    def scan(self) -> Scan:
        """See Source."""
        folders = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_dir()]
        return scan_class_folders(self._files(), folders, self.name)

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

    def _files(self) -> list[str]:
        root = self.root.resolve()
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if path.is_file() and path.resolve().is_relative_to(root)
        )


class S3Source(FolderSource):
    """A prefix of a bucket with one folder per class; its files are fetched when the source is scanned."""

    def __init__(self, url: str, settings: Settings) -> None:
        from hemaflow.infra.store.s3_folder import S3Folder  # boto3 takes its time to load

        self._folder = S3Folder(url, settings)
        super().__init__(self._folder.path)

    def content_digest(self) -> str:
        """See Source: by the listing alone."""
        return self._folder.content_digest()

    def scan(self) -> Scan:
        """See Source."""
        self._folder.fetch()
        return super().scan()


def scan_class_folders(files: Sequence[str], folders: Sequence[str], name: str) -> Scan:
    """Tell classes and splits from paths: [wrapper/…][train|val|test/]class/…/image.

    Args:
        files: Paths of files, relative, in order.
        folders: Paths of folders; those without an image are empty classes.
        name: What the source is called.

    Raises:
        DataError: There is nothing to learn from.
    """
    hidden = [file for file in files if _is_hidden(file)]
    seen = [file for file in files if not _is_hidden(file)]
    images = [file for file in seen if PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES]
    depth = _wrapper_depth([PurePosixPath(file).parts for file in images])
    findings = [
        Finding("ignored-file", [file], "left out", "hidden, or made by an operating system")
        for file in hidden
    ]
    items = []
    splits = _has_split_folders([PurePosixPath(file).parts[depth:] for file in images])
    for file in seen:
        parts = PurePosixPath(file).parts[depth:]
        split: Split | Literal[""] = SPLIT_FOLDERS[parts[0].lower()] if splits and len(parts) > 1 else ""
        below = parts[1:] if split else parts
        if file not in images and PurePosixPath(file).suffix.lower() not in IMAGE_SUFFIXES:
            findings.append(Finding("ignored-file", [file], "left out", "not named .jpg, .jpeg or .png"))
        elif len(below) < 2:
            findings.append(Finding("ignored-file", [file], "left out", "in no folder of a class"))
        else:
            items.append(Item(file, below[0], split))
    classes = sorted({item.class_name for item in items})
    level = depth + (1 if splits else 0)
    for folder in sorted(set(folders)):
        parts = PurePosixPath(folder).parts
        if len(parts) == level + 1 and not _is_hidden(folder) and parts[-1] not in classes:
            reason = "no image in this folder: the class is left out"
            findings.append(Finding("empty-class", [folder], "left out", reason))
    return Scan(_enough(classes, name), items, findings)


def _is_hidden(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any(part.startswith((".", "__MACOSX")) or part in ("Thumbs.db", "desktop.ini") for part in parts)


def _wrapper_depth(paths: Iterable[tuple[str, ...]]) -> int:
    """Return how many leading folders all images share before the classes begin."""
    paths = list(paths)
    depth = 0
    while paths and all(len(parts) > depth + 2 for parts in paths) and len({p[depth] for p in paths}) == 1:
        depth += 1
    return depth


def _has_split_folders(paths: Sequence[tuple[str, ...]]) -> bool:
    deep = [parts for parts in paths if len(parts) > 2]
    tops = {parts[0].lower() for parts in deep}
    return bool(deep) and len(deep) == len(paths) and tops <= SPLIT_FOLDERS.keys() and len(tops) > 1
