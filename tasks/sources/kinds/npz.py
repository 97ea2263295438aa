"""An npz file: a competition's `images` and `labels`, or a data set of MedMNIST with its splits.

    images, labels                            no split
    train_images, train_labels, val_…, test_… the split (Yang et al., Scientific Data 10, 2023)
    classes                                   optional: the names of labels 0, 1, …

Images are uint8[N, H, W, 3], or in grey uint8[N, H, W] or uint8[N, H, W, 1]. Labels are N integers from 0, or
N names of classes.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.infra.stat_cache import SHA256_BYTES, StatCache, stamp
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.core.facts import SPLITS, Split
from hemaflow.tasks.sources.archives import array_header, array_names, open_zip, read_array, stream_rows
from hemaflow.tasks.sources.base import Finding, Item, Scan, Source, require_classes
from hemaflow.tasks.sources.layout import class_name
from hemaflow.tasks.sources.registry import SOURCES

MAX_NAME_BYTES = 4096
"""The longest name of a class, as numpy keeps it: 1,024 letters."""
MAX_CLASSES = 10_000
"""The most classes that a file may name or number; more are labels of another kind."""
NAMES_SHOWN = 12


class _Part(NamedTuple):
    """A pair of arrays in the file."""

    split: Split | Literal[""]
    shape: tuple[int, ...]
    """That of the images."""

    @property
    def prefix(self) -> str:
        """How the names of its arrays begin."""
        return f"{self.split}_" if self.split else ""

    def ref(self, row: int) -> str:
        """Return the name of a picture."""
        return f"{self.split}/{row:05d}" if self.split else f"row {row}"


@SOURCES.register("npz")
class NpzSource(Source):
    """The images of an npz, row by row.

    Args:
        path: The file. Its images are unpacked when the first of them is read.
        settings: Where SHA-256s are recorded; None for nowhere.
    """

    form = "an .npz with images and labels, or of a data set of MedMNIST"

    def __init__(self, path: Path, settings: Settings | None = None) -> None:
        self.path, self.name, self._settings = path, path.name, settings
        with open_zip(path) as archive:
            self._parts = self._check(archive)
        self._spools: list[IO[bytes]] = []
        self._pixels: dict[str, NDArray[np.uint8]] = {}
        self._stamps = set[bytes]()
        """The stamps that the file had when images were unpacked."""
        self._lock = threading.Lock()

    @classmethod
    def opened(cls, data: str, settings: Settings) -> Source | None:
        """See Source."""
        path = Path(data).expanduser()
        is_npz = path.is_file() and path.suffix.lower() == ".npz"
        return NpzSource(path, settings) if is_npz else None

    def content_digest(self) -> str:
        """See Source: the SHA-256 of the file."""
        with StatCache(self._settings) as cache:
            return cache.file_sha256(self.path)

    def scan(self) -> Scan:
        """See Source."""
        with open_zip(self.path) as archive:
            labels = {part: self._labels(archive, part) for part in self._parts}
            given = self._given_names(archive)
        names, findings = self._names(given, [array for array in labels.values() if array.dtype.kind != "U"])
        items: list[Item] = []
        for part, array in labels.items():
            self._require_known(array, names, part.prefix)
            found = array.tolist() if array.dtype.kind == "U" else [names[label] for label in array.tolist()]
            items += [Item(part.ref(row), name, part.split) for row, name in enumerate(found)]
        present = sorted({item.class_name for item in items})
        return Scan(require_classes(present, self.name), items, findings)

    def identities(self, refs: Sequence[str]) -> NDArray[np.uint8]:
        """See Source: the SHA-256 of shape and pixels of each row, kept for the file as it is."""
        of_refs = hashlib.sha256("\0".join(refs).encode()).hexdigest()

        def make(_: str) -> tuple[bytes, bytes]:
            found = b"".join(_row_sha256(self._row(ref)) for ref in refs)
            return found, next(iter(self._stamps)) if len(self._stamps) == 1 else b""

        with StatCache(self._settings) as cache:
            found = cache.derived(self.path, f"npz {of_refs}", make)
        return np.frombuffer(found, np.uint8).reshape(-1, SHA256_BYTES)

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source. Raises DataError where the images are damaged."""
        pixels = self._row(ref)
        if pixels.ndim == 3 and pixels.shape[2] == 3:
            return np.array(pixels)
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)

    def _row(self, ref: str) -> NDArray[np.uint8]:
        split, _, row = ref.rpartition("/") if "/" in ref else ("", "", ref.removeprefix("row "))
        with self._lock:
            if split not in self._pixels:
                self._stamps.add(stamp(self.path.stat()))
                with open_zip(self.path) as archive:
                    (part,) = (part for part in self._parts if part.split == split)
                    self._pixels[split] = self._unpacked(archive, part)
        pixels: NDArray[np.uint8] = self._pixels[split][int(row)]
        return pixels

    def close(self) -> None:
        """See Source."""
        for spool in self._spools:
            spool.close()

    def _check(self, archive: zipfile.ZipFile) -> list[_Part]:
        """Check all headers before anything is unpacked; return the pairs of arrays."""
        present = array_names(archive)
        splits = [split for split in SPLITS if {f"{split}_images", f"{split}_labels"} & set(present)]
        if "images" in present or not splits:
            return [self._check_part(archive, "")]
        return [self._check_part(archive, split) for split in splits]

    def _check_part(self, archive: zipfile.ZipFile, split: Split | Literal[""]) -> _Part:
        prefix = f"{split}_" if split else ""
        images, labels = (array_header(archive, prefix + name, self.path) for name in ("images", "labels"))
        shape, num = images.shape, images.shape[0] if images.shape else 0
        is_grey = len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)
        is_colour = len(shape) == 4 and shape[3] == 3
        if images.dtype != np.uint8 or not (is_grey or is_colour):
            raise self._wrong(
                f"The {prefix}images cannot be used.",
                "uint8 of shape (N, H, W, 3), or in grey (N, H, W) or (N, H, W, 1)",
                f"{images.dtype} of {shape}",
            )
        is_name = labels.dtype.kind in "US" and labels.dtype.itemsize <= MAX_NAME_BYTES
        if not (labels.dtype.kind in "iu" or is_name) or labels.shape not in ((num,), (num, 1)):
            raise self._wrong(
                f"The {prefix}labels cannot be used: they do not give each image one class.",
                f"integers or names of shape ({num},) or ({num}, 1)",
                f"{labels.dtype} of {labels.shape}",
            )
        return _Part(split, shape)

    def _labels(self, archive: zipfile.ZipFile, part: _Part) -> NDArray[np.generic]:
        """Return the labels as integers or names [N]."""
        labels = read_array(archive, f"{part.prefix}labels", self.path).reshape(-1)
        return labels if labels.dtype.kind in "iu" else self._as_names(labels, f"{part.prefix}labels")

    def _given_names(self, archive: zipfile.ZipFile) -> list[str]:
        """Return the names of labels 0, 1, … that the file gives; none where it gives none."""
        if "classes" not in array_names(archive):
            return []
        header = array_header(archive, "classes", self.path)
        is_name = header.dtype.kind in "US" and header.dtype.itemsize <= MAX_NAME_BYTES
        if not is_name or len(header.shape) != 1 or not 0 < header.shape[0] <= MAX_CLASSES:
            raise self._wrong(
                "The array 'classes' cannot be used.",
                "the names of labels 0, 1, …, as text of shape (C,)",
                f"{header.dtype} of {header.shape}",
            )
        names: list[str] = self._as_names(read_array(archive, "classes", self.path), "classes").tolist()
        if len(set(names)) < len(names):
            raise self._wrong("The array 'classes' holds a name twice.", "different names", ", ".join(names))
        return names

    def _as_names(self, array: NDArray[np.generic], name: str) -> NDArray[np.str_]:
        """Return names as numpy's text, composed; without copies of equal ones. Raises DataError."""
        if array.dtype.kind == "U":  # Python refuses to make text of what is none
            points = array.view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
            if points.max(initial=0) > sys.maxunicode:
                raise self._wrong(f"The array {name!r} is no text.", "Unicode", f"{points.max()}")
        distinct, places = np.unique(array, return_inverse=True)
        try:
            texts = [text.decode() if isinstance(text, bytes) else str(text) for text in distinct.tolist()]
            "".join(texts).encode()
        except UnicodeError as error:
            raise self._wrong(f"The array {name!r} is no text.", "UTF-8", str(error)) from error
        empty = [place for place, text in enumerate(texts) if not text.strip()]
        if empty:
            row = int(np.flatnonzero(places.reshape(-1) == empty[0])[0])
            raise self._wrong(f"The array {name!r} has an empty name.", "a name of a class", f"row {row}")
        names: NDArray[np.str_] = np.array([class_name(text) for text in texts], np.str_)[places.reshape(-1)]
        return names

    def _names(
        self, given: list[str], integers: Sequence[NDArray[np.generic]]
    ) -> tuple[list[str], list[Finding]]:
        """Return the names of labels 0, 1, …, and a finding where they are assumed."""
        if given or not integers:
            return given, []
        is_pbc = not self._parts[0].split or self.path.stem.lower().startswith("bloodmnist")
        most = max(0, *(int(labels.max(initial=0)) for labels in integers))
        num_digits = len(str(most))
        names = [f"class {label:0{num_digits}d}" for label in range(min(most + 1, MAX_CLASSES))]
        action = "classes are called by their numbers"
        if is_pbc:
            names = list(PBC_CLASSES)
            action = ", ".join(f"{label} is {name}" for label, name in enumerate(names))
        reason = "the file does not name its classes; to name them, save it with an array classes=[…]"
        return names, [Finding("assumed-class-names", ["labels"], action, reason)]

    def _require_known(self, labels: NDArray[np.generic], names: Sequence[str], prefix: str) -> None:
        """Raise DataError where labels have no name."""
        if labels.dtype.kind == "U":
            unknown = ~np.isin(labels, names) if names else np.zeros(len(labels), bool)
        else:
            numbers = labels.astype(np.int64)
            unknown = (numbers < 0) | (numbers >= len(names))
        rows = np.flatnonzero(unknown)
        if len(rows):
            raise DataError(
                f"{len(rows)} {prefix}labels are out of range.",
                expected=f"0..{len(names) - 1}: {', '.join(names[:NAMES_SHOWN])}"
                + "…" * (len(names) > NAMES_SHOWN),
                received=", ".join(f"row {row}: {labels[row]}" for row in rows[:5]),
                where=str(self.path),
                remedy="Correct the labels of these rows, or name all classes in an array called classes.",
            )

    def _unpacked(self, archive: zipfile.ZipFile, part: _Part) -> NDArray[np.uint8]:
        """Return the images as a memory map over a temporary file: rows on demand, in bounded memory."""
        if not part.shape[0]:
            return np.zeros(part.shape, np.uint8)
        spool = tempfile.TemporaryFile(prefix="hemaflow-")
        self._spools.append(spool)
        for row in stream_rows(archive, f"{part.prefix}images", self.path):
            spool.write(np.ascontiguousarray(row, np.uint8).data)
        spool.flush()
        return np.memmap(spool, np.uint8, "r", shape=part.shape)

    def _wrong(self, what: str, expected: str, received: str) -> DataError:
        return DataError(
            what,
            expected=expected,
            received=received,
            where=str(self.path),
            remedy="Save it again with numpy.savez_compressed(path, images=…, labels=…, classes=…).",
        )


def _row_sha256(pixels: NDArray[np.uint8]) -> bytes:
    total = hashlib.sha256(f"{pixels.shape}".encode())
    total.update(np.ascontiguousarray(pixels).data)
    return total.digest()
