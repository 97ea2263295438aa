"""The index of an ingested data set: one row per image, in the order of the records.

`index.csv` has the columns id, sha256, label, split, source. `id` is unique. `sha256` is that of the pixels
(uint8[H, W, 3], row by row, after resizing). `label` counts from 0 in the order of the manifest's `classes`.
`split` is train, val or test. `source` is the file or row that the image came from, relative to the source.
The k-th row of a split is the k-th record of that split's shards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hemaflow.tasks.core.facts import SPLITS, Split
from hemaflow.tasks.records.table import read_table, write_table

_SPLITS: dict[str, Split] = {split: split for split in SPLITS}


class Row(NamedTuple):
    """One image of the index."""

    id: str
    sha256: str
    label: int
    split: Split
    source: str


def write_index(rows: Iterable[Row]) -> bytes:
    """Return the index as CSV."""
    return write_table([Row._fields, *rows])


def read_index(data: bytes) -> list[Row]:
    """Return the rows of an index, in order."""
    _, *rows = read_table(data)
    return [
        Row(image_id, sha256, int(label), _SPLITS[split], source)
        for image_id, sha256, label, split, source in rows
    ]
