"""Columns in an .npz: arrays of one value an item, and texts; a reader loads only the columns that it needs.

A column of texts is two arrays: NAME uint8[…], the UTF-8 of all texts one after another, and NAME.bytes
uint32[N], how many bytes each has. Nothing is compressed or pickled; equal columns give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Column: TypeAlias = NDArray[np.generic] | Sequence[str]
_SIZES = ".bytes"


def write_columns(columns: Mapping[str, Column]) -> bytes:
    """Return columns as an .npz, in the order given."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **_arrays(columns))
    return buffer.getvalue()


def save_columns(path: Path, columns: Mapping[str, Column]) -> None:
    """Write columns to a file as `write_columns` returns them, without a copy in memory."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **_arrays(columns))


def _arrays(columns: Mapping[str, Column]) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            arrays[name] = column
            continue
        encoded = [text.encode() for text in column]
        arrays[name] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[name + _SIZES] = np.array([len(text) for text in encoded], np.uint32)
    return arrays


class Columns:
    """The columns of `write_columns`, each read when it is asked for.

    Args:
        source: The file, whose bytes were checked, or its bytes.
    """

    def __init__(self, source: Path | bytes) -> None:
        self._source = source

    def array(self, name: str) -> NDArray[np.generic]:
        """Return a column of values. Raises KeyError."""
        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
        with np.load(source, allow_pickle=False) as arrays:
            column: NDArray[np.generic] = arrays[name]
            return column

    def texts(self, name: str) -> list[str]:
        """Return a column of texts. Raises KeyError."""
        text, ends = self.array(name).tobytes(), self.array(name + _SIZES).cumsum().tolist()
        return [text[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
