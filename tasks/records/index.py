"""The index of an ingested data set: one row per image, in the order of the records.

`index.npz` has the columns (tasks/records/columns.py)

    id      text         unique
    sha256  uint8[N, 32] of the pixels: uint8[H, W, 3], row by row, after resizing
    label   int32[N]     from 0, in the order of the manifest's `classes`
    split   uint8[N]     0 train, 1 val, 2 test
    source  text         the file or row that the image came from, relative to the source

The k-th row of a split is the k-th record of that split's shards. As CSV, which earlier versions kept instead
(`index.csv`), the SHA-256 is hexadecimal and the split a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.facts import SPLITS, Split
from hemaflow.tasks.records.columns import Columns, write_columns
from hemaflow.tasks.records.table import read_table, write_table

INDEX, FORMER_INDEX = "index.npz", "index.csv"
_SPLITS: dict[str, Split] = {split: split for split in SPLITS}


class Row(NamedTuple):
    """One image of the index."""

    id: str
    sha256: str
    label: int
    split: Split
    source: str


def encode_index(rows: Sequence[Row]) -> bytes:
    """Return the index as index.npz holds it."""
    digests = b"".join(bytes.fromhex(row.sha256).ljust(32, b"\0") for row in rows)
    return write_columns(
        {
            "id": [row.id for row in rows],
            "sha256": np.frombuffer(digests, np.uint8).reshape(-1, 32),
            "label": np.array([row.label for row in rows], np.int32),
            "split": np.array([SPLITS.index(row.split) for row in rows], np.uint8),
            "source": [row.source for row in rows],
        }
    )


def write_index(rows: Iterable[Row]) -> bytes:
    """Return the index as CSV."""
    return write_table([Row._fields, *rows])


def read_index(data: bytes) -> list[Row]:
    """Return the rows of an index as CSV, in order."""
    _, *rows = read_table(data)
    return [
        Row(image_id, sha256, int(label), _SPLITS[split], source)
        for image_id, sha256, label, split, source in rows
    ]


class Index:
    """The index of a result of ingest; each column is read when it is asked for.

    Args:
        columns: The columns of index.npz.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    @classmethod
    def of(cls, store: Store, manifest: Manifest) -> Index:
        """Return the index of a result of ingest, also of one that an earlier version made."""
        if manifest.matching(INDEX):
            return cls(Columns(manifest.path(store, INDEX)))
        rows = read_index(manifest.read(store, FORMER_INDEX))
        return cls(Columns(encode_index(rows)))

    @cached_property
    def ids(self) -> list[str]:
        """The ids."""
        return self._columns.texts("id")

    @cached_property
    def sha256(self) -> NDArray[np.uint8]:
        """The SHA-256 of the pixels, uint8[N, 32]."""
        return self._columns.array("sha256").astype(np.uint8, copy=False)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """The labels, int32[N]."""
        return self._columns.array("label").astype(np.int32, copy=False)

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """The place of each image's split in SPLITS, uint8[N]."""
        return self._columns.array("split").astype(np.uint8, copy=False)

    def places(self, split: Split) -> NDArray[np.intp]:
        """Return the places of a split's rows, in order."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def rows(self) -> list[Row]:
        """Return all rows, in order."""
        return [
            Row(image_id, sha256.tobytes().hex(), label, SPLITS[split], source)
            for image_id, sha256, label, split, source in zip(
                self.ids,
                self.sha256,
                self.labels.tolist(),
                self.splits.tolist(),
                self._columns.texts("source"),
                strict=True,
            )
        ]
