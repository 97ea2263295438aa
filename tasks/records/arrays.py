"""Arrays of numpy as one object, an uncompressed .npz: the same arrays give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays by name as an .npz. The entries of the zip carry no time."""
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    return data.getvalue()


def read_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of `write_arrays`, by name."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return dict(archive)
