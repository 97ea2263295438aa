"""The pictures of a source at the size they are ingested at, in a scratch file: each is decoded once.

Guarantees that memory does not grow with the number of pictures. The file holds S × S × 3 bytes a picture.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray


class FittedPictures:
    """Pictures uint8[S, S, 3] by name. Use as a context manager: it holds a file open.

    Args:
        path: The scratch file. It is not removed.
        size_pixels: S.
    """

    def __init__(self, path: Path, size_pixels: int) -> None:
        self._file = path.open("w+b")
        self._shape = (size_pixels, size_pixels, 3)
        self._places: dict[str, int] = {}

    def add(self, ref: str, pixels: NDArray[np.uint8]) -> None:
        """Keep a picture. Raises OSError where the disk is full."""
        if pixels.shape != self._shape:
            raise ValueError(f"Expected a picture of shape {self._shape}. Received: {pixels.shape}")
        self._places[ref] = self._file.tell()
        self._file.write(np.ascontiguousarray(pixels).data)

    def add_copy(self, ref: str, of: str) -> None:
        """Give a picture that is kept another name. Raises KeyError."""
        self._places[ref] = self._places[of]

    def __contains__(self, ref: object) -> bool:
        """Return whether there is a picture of that name."""
        return ref in self._places

    def __getitem__(self, ref: str) -> NDArray[np.uint8]:
        """Return a picture. Raises KeyError."""
        self._file.flush()
        size_bytes = int(np.prod(self._shape))
        data = os.pread(self._file.fileno(), size_bytes, self._places[ref])
        return np.frombuffer(data, np.uint8).reshape(self._shape)

    def __enter__(self) -> Self:
        """Use the pictures."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()
