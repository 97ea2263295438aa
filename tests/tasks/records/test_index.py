"""The index is read back from columns, and from the CSV of earlier versions, whatever its names hold."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.facts import ingest_facts
from helpers.pictures import inputs
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.facts import SPLITS
from hemaflow.tasks.records.columns import Columns, write_columns
from hemaflow.tasks.records.index import FORMER_INDEX, INDEX, Index, Row, encode_index, write_index

NAMES = ("a/1.png", "b\n/ü.jpg", "", "=1,2", "\0")
ROWS = [
    Row(name, hashlib.sha256(name.encode()).hexdigest(), place % 2, SPLITS[place % 3], f"of {name}")
    for place, name in enumerate(NAMES)
]


def ingested(store: LocalStore, name: str, data: bytes) -> Manifest:
    draft = Draft(store, inputs("ingest", index=name))
    draft.put(name, data)
    return draft.commit(**ingest_facts(["one", "two"], 24, {"train": 2, "val": 2, "test": 1}))


@pytest.mark.parametrize(("name", "data"), [(INDEX, encode_index(ROWS)), (FORMER_INDEX, write_index(ROWS))])
def test_an_index_is_read_back(store: LocalStore, name: str, data: bytes) -> None:
    index = Index.of(store, ingested(store, name, data))
    assert index.rows() == ROWS
    assert index.places("train").tolist() == [0, 3]
    assert [index.ids[place] for place in index.places("test")] == [NAMES[2]]
    assert index.labels.tolist() == [0, 1, 0, 1, 0]
    assert index.sha256[1].tobytes().hex() == ROWS[1].sha256


def test_an_image_takes_its_names_and_50_bytes() -> None:
    rows = [Row(f"class/{k:06d}.png", "0" * 64, 1, "train", f"class/{k:06d}.png") for k in range(1000)]
    assert len(encode_index(rows)) < 1000 * (2 * len(rows[0].id) + 50)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_are_read_back(texts: list[str]) -> None:
    data = write_columns({"name": texts})
    assert Columns(data).texts("name") == texts
    assert data == write_columns({"name": tuple(texts)})
