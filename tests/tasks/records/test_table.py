"""Tables are read back as they were written, whatever the names in them hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemaflow.tasks.records.index import Row, read_index, write_index
from hemaflow.tasks.records.predictions import read_predictions, write_predictions
from hemaflow.tasks.records.table import read_table, write_table

ODD = [
    "a\rb",
    "\r",
    "a\nb",
    "a\r\nb",
    "",
    ",",
    '"',
    "a,b\r",
    "=1+1",
    "\x1b[31mred",
    "\0",
    " x ",
    "\u2028",
    "\x85",
    "'",
]
TEXTS = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"])))


@given(st.lists(st.lists(TEXTS, min_size=2, max_size=3)))
def test_rows_are_read_back(rows: list[list[str]]) -> None:
    assert read_table(write_table(rows)) == rows


@pytest.mark.parametrize("name", ODD)
def test_an_index_with_odd_names_is_read_back(name: str) -> None:
    rows = [Row(name, "0" * 64, 1, "train", name), Row("b/1.png", "1" * 64, 0, "test", "b/1.png")]
    assert read_index(write_index(rows)) == rows


def test_usual_names_are_not_quoted() -> None:
    row = Row("a/1.png", "0" * 64, 1, "val", "a/1.png")
    assert write_index([row]) == b"id,sha256,label,split,source\na/1.png," + b"0" * 64 + b",1,val,a/1.png\n"


def test_predictions_with_odd_names_are_read_back() -> None:
    rng = np.random.default_rng(0)
    plain, averaged = rng.random((2, len(ODD), 3), np.float32)
    labels = np.arange(len(ODD)) % 3
    data = write_predictions(ODD, labels, plain, averaged)
    for tta, expected in ((False, plain), (True, averaged)):
        found = read_predictions(data, 3, tta=tta)
        assert found.ids == ODD
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_array_equal(found.probabilities.astype(np.float32), expected)
