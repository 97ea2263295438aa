"""Where images come from: one interface over folders, buckets, zips, npz files, BloodMNIST and drawn cells.

A source lists what it holds without decoding it (`scan`), and gives any picture on demand (`read`), so that
memory does not grow with the number of images. What it cannot use it lists as findings; a source that cannot
be used at all raises DataError. Nothing in a source is ever unpickled, unpacked next to other files, or
decompressed beyond what it declares.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.errors import DataError, nearest
from infra.settings import Settings
from infra.store import file_sha256
from tasks.archives import BROKEN_ZIP, MAX_RATIO, array_header, open_zip, read_array, stream_rows
from tasks.classes import PBC_CLASSES
from tasks.images import IMAGE_SUFFIXES, Unreadable, decode_image
from tasks.sample import NUM_PER_CLASS, draw_cell

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

MAX_MEMBER_BYTES = 200 << 20
"""The largest file in a zip that is read: an image of MAX_IMAGE_PIXELS as PNG."""


class Finding(NamedTuple):
    """Something that was found in a source, and what was done about it."""

    kind: str
    items: list[str]
    action: str
    reason: str


class Item(NamedTuple):
    """One picture of a source: how to ask for it, its class, and its split where the source has one."""

    ref: str
    class_name: str
    split: str


class Scan(NamedTuple):
    """What a source holds."""

    classes: list[str]
    items: list[Item]
    findings: list[Finding]


class Source(ABC):
    """A source of labelled pictures. Use as a context manager: it may hold files open."""

    name: str

    @abstractmethod
    def content_digest(self) -> str:
        """Return a SHA-256 that changes with the content; without TensorFlow, in bounded memory."""

    @abstractmethod
    def scan(self) -> Scan:
        """List the pictures, in an order that depends on the content alone. Raises DataError.

        Comes before any `read`.
        """

    @abstractmethod
    def read(self, ref: str) -> NDArray[np.uint8]:
        """Return a picture as uint8[h, w, 3] in 0..255. Raises Unreadable. Called from several threads."""

    def close(self) -> None:  # noqa: B027 (most sources hold nothing open)
        """Let go of what is held open."""

    def __enter__(self) -> Source:
        """Use the source."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of what is held open."""
        self.close()


def open_source(data: str, settings: Settings) -> Source:
    """Return the source that `--data` names. Raises DataError where there is none."""
    if data == "sample":
        return SampleSource()
    if data.split("-")[0] == "bloodmnist":
        from tasks.bloodmnist import BloodMnistSource

        return BloodMnistSource(data, settings)
    if data.startswith("s3://"):
        return S3Source(data, settings)
    path = Path(data).expanduser()
    if path.is_dir():
        return FolderSource(path)
    if path.is_file() and path.suffix == ".npz":
        return NpzSource(path)
    if path.is_file() and path.suffix == ".zip":
        return ZipSource(path)
    known = ["sample", "bloodmnist", "bloodmnist-64", "bloodmnist-128", "bloodmnist-224"]
    raise DataError(
        "There is no such data source.",
        expected="a folder, .zip or s3://bucket/prefix with one folder per class, an .npz with images and "
        "labels, or a name: " + nearest(data, known),
        received=f"--data {data}" + ("" if path.exists() else " (no such file)"),
        remedy="Check the path, or try the drawn cells first: --data sample",
    )


class SampleSource(Source):
    """The cells that hemaflow draws itself."""

    name = "sample"

    def content_digest(self) -> str:
        """See Source: what is drawn is code, and the code is in the key."""
        return hashlib.sha256(b"sample").hexdigest()

    def scan(self) -> Scan:
        """See Source."""
        items = [
            Item(f"{name}/{index:03d}", name, "") for name in PBC_CLASSES for index in range(NUM_PER_CLASS)
        ]
        return Scan(list(PBC_CLASSES), items, [])

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        name, _, index = ref.partition("/")
        return draw_cell(PBC_CLASSES.index(name), int(index))


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
        try:
            with (self.root / ref).open("rb") as file:
                return decode_image(file)
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
        from infra.s3_folder import S3Folder  # boto3 takes its time to load

        self._folder = S3Folder(url, settings)
        super().__init__(self._folder.path)

    def content_digest(self) -> str:
        """See Source: by the listing alone."""
        return self._folder.content_digest()

    def scan(self) -> Scan:
        """See Source."""
        self._folder.fetch()
        return super().scan()


class ZipSource(Source):
    """A zip with one folder per class, read in place."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self._archive = open_zip(path)

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
        member = self._archive.getinfo(ref)
        if member.file_size > MAX_MEMBER_BYTES or member.file_size > MAX_RATIO * max(1, member.compress_size):
            raise Unreadable(f"declares {member.file_size} bytes, too many for an image")
        try:
            return decode_image(io.BytesIO(self._archive.read(member)))
        except BROKEN_ZIP as error:
            raise Unreadable(f"damaged in the archive: {error}") from error

    def close(self) -> None:
        """See Source."""
        self._archive.close()


class NpzSource(Source):
    """A competition's npz: `images` uint8[N, H, W, 3] and `labels` int[N] or int[N, 1] in 0..7."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        with open_zip(path) as archive:
            self._shape = self._check(archive)
        self._images: NDArray[np.uint8] = np.zeros((0, *self._shape[1:]), np.uint8)
        self._spool: Any = None

    def content_digest(self) -> str:
        """See Source."""
        return file_sha256(self.path)

    def scan(self) -> Scan:
        """See Source."""
        with open_zip(self.path) as archive:
            labels = read_array(archive, "labels", self.path).reshape(-1)
            self._images = self._unpacked(archive)
        out_of_range = np.flatnonzero((labels < 0) | (labels >= len(PBC_CLASSES)))
        if len(out_of_range):
            raise DataError(
                f"{len(out_of_range)} labels are out of range.",
                expected=f"0..{len(PBC_CLASSES) - 1}: {', '.join(PBC_CLASSES)}",
                received=", ".join(f"row {row}: {labels[row]}" for row in out_of_range[:5]),
                where=str(self.path),
                remedy="Correct the labels of these rows.",
            )
        present = [name for label, name in enumerate(PBC_CLASSES) if (labels == label).any()]
        items = [Item(f"row {row}", PBC_CLASSES[int(label)], "") for row, label in enumerate(labels)]
        return Scan(_enough(present, self.name), items, [])

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        return np.array(self._images[int(ref.removeprefix("row "))])

    def close(self) -> None:
        """See Source."""
        if self._spool is not None:
            self._spool.close()

    def _check(self, archive: zipfile.ZipFile) -> tuple[int, ...]:
        """Check both headers before anything is unpacked; return the shape of the images."""
        images, labels = (array_header(archive, name, self.path) for name in ("images", "labels"))

        def wrong(what: str, expected: str, received: object) -> DataError:
            return DataError(
                what,
                expected=expected,
                received=str(received),
                where=str(self.path),
                remedy="Save it again with numpy.savez_compressed(path, images=…, labels=…).",
            )

        if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[3] != 3:
            raise wrong(
                "The images cannot be used.",
                "uint8 of shape (N, H, W, 3)",
                f"{images.dtype} of {images.shape}",
            )
        if labels.dtype.kind not in "iu" or labels.shape not in ((images.shape[0],), (images.shape[0], 1)):
            raise wrong(
                "The labels cannot be used.",
                f"integers of shape ({images.shape[0]},) or ({images.shape[0]}, 1)",
                f"{labels.dtype} of {labels.shape}",
            )
        return images.shape

    def _unpacked(self, archive: zipfile.ZipFile) -> NDArray[np.uint8]:
        """Return the images as a memory map over a temporary file: rows on demand, in bounded memory."""
        self._spool = tempfile.NamedTemporaryFile(prefix="hemaflow-", suffix=".raw")
        for row in stream_rows(archive, "images", self.path):
            self._spool.write(row.data)
        self._spool.flush()
        return np.memmap(self._spool.name, np.uint8, "r", shape=self._shape)


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
        split = SPLIT_FOLDERS[parts[0].lower()] if splits and len(parts) > 1 else ""
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


def _enough(classes: list[str], name: str) -> list[str]:
    if len(classes) < 2:
        raise DataError(
            "There is nothing to tell apart." if classes else "There are no images.",
            expected="at least two classes, each a folder with .jpg or .png images (or a label of an .npz)",
            received=f"one class, {classes[0]!r}" if classes else "none",
            where=name,
            remedy="Put the images of each class into a folder of its own.",
        )
    return classes


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
