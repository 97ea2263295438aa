"""BloodMNIST (Yang et al., Scientific Data 10, 2023; CC BY 4.0) in its four sizes, with its official split.

The builder of tasks/sources/bloodmnist_builder.py downloads the file of the MedMNIST+ record on Zenodo,
checks its MD5, and prepares it. Where the host cannot be reached, a file that was downloaded by hand is used.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from typing import IO

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import ConfigError, DataError, nearest
from hemaflow.infra.settings import Settings
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.sources.base import Item, Scan, Source
from hemaflow.tasks.sources.bloodmnist_releases import RELEASES, Release
from hemaflow.tasks.sources.registry import SOURCES


@SOURCES.register("bloodmnist")
class BloodMnistSource(Source):
    """BloodMNIST as a source: rows called `train/00012`."""

    form, names = "BloodMNIST by its name", tuple(RELEASES)

    def __init__(self, name: str, settings: Settings, releases: Mapping[str, Release] = RELEASES) -> None:
        if name not in releases:
            raise ConfigError(f"There is no {name!r}.", expected=nearest(name, releases))
        self.name, self._release, self._settings = name, releases[name], settings
        self._pixels: NDArray[np.uint8] = np.zeros((0, 0, 0, 3), np.uint8)
        self._rows: dict[str, int] = {}
        self._spool: IO[bytes] | None = None

    @classmethod
    def opened(cls, data: str, settings: Settings) -> Source | None:
        """See Source."""
        return BloodMnistSource(data, settings) if data in RELEASES else None

    def content_digest(self) -> str:
        """See Source: the MD5 that the file is held to."""
        return hashlib.sha256(f"bloodmnist {self._release.md5}".encode()).hexdigest()

    def scan(self) -> Scan:
        """See Source. Downloads and prepares the file where that was not done yet."""
        from hemaflow.tasks.sources.bloodmnist_builder import examples, prepared

        builder = prepared(
            self.name,
            self._release,
            self._settings.download_dir.expanduser(),
            self._settings.manual_dir.expanduser(),
        )
        self._spool = spool = tempfile.TemporaryFile(prefix="hemaflow-")
        items: list[Item] = []
        for split, index, image, label in examples(builder):
            ref = f"{split}/{index:05d}"
            self._rows[ref] = len(items)
            items.append(Item(ref, PBC_CLASSES[label], split))
            spool.write(image.tobytes())
        spool.flush()
        if not items:
            raise DataError(f"{self.name} is empty.", remedy="Remove the download and run again.")
        size = self._release.size_pixels
        self._pixels = np.memmap(spool, np.uint8, "r", shape=(len(items), size, size, 3))
        return Scan(list(PBC_CLASSES), items, [])

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        return np.array(self._pixels[self._rows[ref]])

    def close(self) -> None:
        """See Source."""
        if self._spool is not None:
            self._spool.close()
