"""Sources in a competition's npz file: `images` and `labels`."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.store.base import file_sha256
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.sources.archives import (
    array_header,
    open_zip,
    read_array,
    stream_rows,
)
from hemaflow.tasks.sources.base import Item, Scan, Source, require_classes


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
        return Scan(require_classes(present, self.name), items, [])

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
