"""The index of an ingested data set: one row per image, in the order of the records.

`index.csv` has the columns id, sha256, label, split, source. `id` is unique; `sha256` is that of the pixels
(uint8[H, W, 3], row by row, after resizing); `label` counts from 0 in the order of the manifest's `classes`;
`split` is train, val or test; `source` is the file or row it came from, relative to the source.
The k-th row of a split is the k-th record of that split's shards.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import NamedTuple

from hemaflow.tasks.core.facts import Split


class Row(NamedTuple):
    """One image of the index."""

    id: str
    sha256: str
    label: int
    split: Split
    source: str


def write_index(rows: Iterable[Row]) -> bytes:
    """Return the index as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)
    return text.getvalue().encode()


def read_index(data: bytes) -> list[Row]:
    """Return the rows of an index, in order."""
    reader = csv.DictReader(io.StringIO(data.decode(), newline=""))
    return [
        Row(row["id"], row["sha256"], int(row["label"]), row["split"], row["source"])  # type: ignore[arg-type]
        for row in reader
    ]
