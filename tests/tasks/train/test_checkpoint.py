from __future__ import annotations

import io

import numpy as np
import pytest

from hemaflow.infra.errors import StageError
from hemaflow.tasks.train.checkpoint import pack, unpack


def test_what_was_packed_is_unpacked() -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7)]
    groups: dict[str, list[np.ndarray]] = {"model": arrays, "best": []}
    position, unpacked = unpack(pack({"epoch": 3, "history": [{"loss": 0.5}]}, groups))
    assert position == {"epoch": 3, "history": [{"loss": 0.5}]}
    assert unpacked["best"] == []
    for packed, array in zip(groups["model"], unpacked["model"], strict=True):
        np.testing.assert_array_equal(packed, array)
        assert array.dtype == packed.dtype


def test_a_cut_checkpoint_is_told() -> None:
    data = pack({}, {"model": [np.zeros(100)]})
    with pytest.raises(StageError, match="cannot be read"):
        unpack(data[:200])


def test_a_pickle_in_a_checkpoint_is_never_loaded() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, document=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StageError, match="cannot be read"):
        unpack(buffer.getvalue())
