from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from hemaflow.infra.errors import StageError
from hemaflow.tasks.core.history import EpochRow
from hemaflow.tasks.train.checkpoint import Position, pack, unpack
from hemaflow.tasks.train.schedules import Best, Plateau

START = Position(Best(patience=3), Plateau(3, 0.5, 1e-6))


def test_what_was_packed_is_unpacked() -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7)]
    groups: dict[str, list[np.ndarray]] = {"model": arrays, "best": []}
    row = EpochRow(epoch=1, phase="transfer", loss=0.5, accuracy=0.7, learning_rate=1e-3)
    figures = {"epoch": 1, "phase": "transfer", "loss": 0.5, "accuracy": 0.7, "learning_rate": 1e-3}
    assert row.document() == figures
    packed_position = replace(START, epoch=3, partial=(0.25, 7.0), history=[row])
    position, unpacked = unpack(pack(packed_position, groups))
    assert position == packed_position
    assert position.best.loss == math.inf
    assert unpacked["best"] == []
    for packed, array in zip(groups["model"], unpacked["model"], strict=True):
        np.testing.assert_array_equal(packed, array)
        assert array.dtype == packed.dtype


def test_a_cut_checkpoint_is_told() -> None:
    data = pack(START, {"model": [np.zeros(100)]})
    with pytest.raises(StageError, match="cannot be read"):
        unpack(data[:200])


@pytest.mark.parametrize("position", [{}, {"epoch": "third"}, None])
def test_a_position_that_is_none_is_not_gone_on_from(position: object) -> None:
    buffer = io.BytesIO()
    document = json.dumps({"position": position, "groups": {}}).encode()
    np.savez(buffer, document=np.frombuffer(document, np.uint8))
    with pytest.raises(StageError, match="cannot be read"):
        unpack(buffer.getvalue())


def test_a_pickle_in_a_checkpoint_is_never_loaded() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, document=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StageError, match="cannot be read"):
        unpack(buffer.getvalue())
