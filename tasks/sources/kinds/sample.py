"""The cells that hemaflow draws itself, for a first run without data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.settings import Settings
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.sources import sample_cells
from hemaflow.tasks.sources.base import Item, Scan, Source, as_identities
from hemaflow.tasks.sources.registry import SOURCES
from hemaflow.tasks.sources.sample_cells import NUM_PER_CLASS, draw_cell


@SOURCES.register("sample")
class SampleSource(Source):
    """The cells that hemaflow draws itself."""

    form, names = "drawn cells", ("sample",)
    name = "sample"

    @classmethod
    def opened(cls, data: str, settings: Settings) -> Source | None:
        """See Source."""
        return SampleSource() if data == cls.name else None

    def content_digest(self) -> str:
        """See Source: what is drawn is code, and the code is in the key."""
        return hashlib.sha256(b"sample").hexdigest()

    def scan(self) -> Scan:
        """See Source."""
        items = [
            Item(f"{name}/{index:03d}", name, "") for name in PBC_CLASSES for index in range(NUM_PER_CLASS)
        ]
        return Scan(list(PBC_CLASSES), items, [])

    def identities(self, refs: Sequence[str]) -> NDArray[np.uint8]:
        """See Source: the name of each cell with the code that draws it."""
        code = Path(sample_cells.__file__).read_bytes()
        return as_identities([hashlib.sha256(code + ref.encode()).digest() for ref in refs])

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        name, _, index = ref.partition("/")
        return draw_cell(PBC_CLASSES.index(name), int(index))
