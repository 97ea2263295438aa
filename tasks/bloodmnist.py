"""BloodMNIST (Yang et al., Scientific Data 10, 2023; CC BY 4.0) in its four sizes, with its official split.

The builder of tasks/bloodmnist_builder.py downloads the file of the MedMNIST+ record on Zenodo, checks its
MD5, and prepares it. Where the host cannot be reached, a file that was downloaded by hand is used.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError, DataError, nearest
from infra.settings import Settings
from tasks.classes import PBC_CLASSES
from tasks.sources import Item, Scan, Source

RECORD = "https://zenodo.org/records/10519652/files"


@dataclass(frozen=True)
class Release:
    """One file of the record. The MD5 sums are those of the MedMNIST package's own table (medmnist.INFO)."""

    file: str
    md5: str
    size_pixels: int
    record: str = RECORD

    @property
    def url(self) -> str:
        """Where it is downloaded."""
        return f"{self.record}/{self.file}?download=1"


RELEASES: Mapping[str, Release] = {
    "bloodmnist": Release("bloodmnist.npz", "7053d0359d879ad8a5505303e11de1dc", 28),
    "bloodmnist-64": Release("bloodmnist_64.npz", "2b94928a2ae4916078ca51e05b6b800b", 64),
    "bloodmnist-128": Release("bloodmnist_128.npz", "adace1e0ed228fccda1f39692059dd4c", 128),
    "bloodmnist-224": Release("bloodmnist_224.npz", "b718ff6835fcbdb22ba9eacccd7b2601", 224),
}


class BloodMnistSource(Source):
    """BloodMNIST as a source: rows called `train/00012`."""

    def __init__(self, name: str, settings: Settings, releases: Mapping[str, Release] = RELEASES) -> None:
        if name not in releases:
            raise ConfigError(f"There is no {name!r}.", expected=nearest(name, releases))
        self.name, self._release, self._settings = name, releases[name], settings
        self._pixels: NDArray[np.uint8] = np.zeros((0, 0, 0, 3), np.uint8)
        self._rows: dict[str, int] = {}
        self._spool: Any = None

    def content_digest(self) -> str:
        """See Source: the MD5 that the file is held to."""
        return hashlib.sha256(f"bloodmnist {self._release.md5}".encode()).hexdigest()

    def scan(self) -> Scan:
        """See Source. Downloads and prepares the file where that was not done yet."""
        from tasks.bloodmnist_builder import examples, prepared

        builder = prepared(
            self.name,
            self._release,
            self._settings.download_dir.expanduser(),
            self._settings.manual_dir.expanduser(),
        )
        self._spool = tempfile.NamedTemporaryFile(prefix="hemaflow-", suffix=".raw")
        items: list[Item] = []
        for split, index, image, label in examples(builder):
            ref = f"{split}/{index:05d}"
            self._rows[ref] = len(items)
            items.append(Item(ref, PBC_CLASSES[label], split))
            self._spool.write(image.tobytes())
        self._spool.flush()
        if not items:
            raise DataError(f"{self.name} is empty.", remedy="Remove the download and run again.")
        size = self._release.size_pixels
        self._pixels = np.memmap(self._spool.name, np.uint8, "r", shape=(len(items), size, size, 3))
        return Scan(list(PBC_CLASSES), items, [])

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        return np.array(self._pixels[self._rows[ref]])

    def close(self) -> None:
        """See Source."""
        if self._spool is not None:
            self._spool.close()
