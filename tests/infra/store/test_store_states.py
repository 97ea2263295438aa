"""Random sequences of operations: a local store, one in S3 and a plain dict stay alike.

`pytest --hypothesis-profile=thorough` tries a thousand sequences.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from hemaflow.infra.deploy.stack import BUCKET
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import open_store

NAMES = st.sampled_from(["a", "b/c", "b/d-e", "b-c", "stages/train/k/manifest.json", "runs/1.json"])
DATA = st.sampled_from([b"", b"one", b"two", b"x" * 5000])
PREFIXES = st.sampled_from(["", "b", "b/", "stages/train/", "none/"])


class TwoStores(RuleBasedStateMachine):
    """The same operations on both, with the answers that a dict would give."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.stores: list[Store] = [
            LocalStore(Path(self.folder.name) / "store"),
            open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}"),
        ]
        self.model: dict[str, bytes] = {}
        self.seen: dict[str, tuple[bytes, list[str]]] = {}

    def both(self, operation: Any) -> Any:
        local, remote = (operation(store) for store in self.stores)
        assert local == remote
        return local

    @rule(name=NAMES, data=DATA)
    def put(self, name: str, data: bytes) -> None:
        self.both(lambda store: store.put(name, data))
        self.model[name] = data

    @rule(name=NAMES, data=DATA)
    def put_file(self, name: str, data: bytes) -> None:
        path = Path(self.folder.name) / "file"
        path.write_bytes(data)
        self.both(lambda store: store.put_file(name, path, hashlib.sha256(data).hexdigest()))
        path.unlink()
        self.model[name] = data

    @rule(name=NAMES, data=DATA)
    def create(self, name: str, data: bytes) -> None:
        assert self.both(lambda store: store.create(name, data)) == (name not in self.model)
        self.model.setdefault(name, data)

    @rule(name=NAMES)
    def look(self, name: str) -> None:
        """Remember the tags of a moment, which later swaps go by."""
        found = [store.get_tagged(name) for store in self.stores]
        if name in self.model:
            self.seen[name] = (self.model[name], [tag for _, tag in found])  # type: ignore[misc]

    @rule(name=NAMES, data=DATA)
    def swap(self, name: str, data: bytes) -> None:
        if name in self.seen:
            content, tags = self.seen[name]
            # A tag stands for the content: what came back to it may be swapped again.
            expected = self.model.get(name) == content
            for store, tag in zip(self.stores, tags, strict=True):
                assert store.swap(name, data, tag) == expected
            if expected:
                self.model[name] = data

    @rule(names=st.lists(NAMES, max_size=3))
    def delete(self, names: list[str]) -> None:
        self.both(lambda store: store.delete(names))
        for name in names:
            self.model.pop(name, None)

    @rule(name=NAMES)
    def read(self, name: str) -> None:
        stat = self.both(lambda store: store.stat(name))
        if name in self.model:
            data = self.model[name]
            assert (stat.size_bytes, stat.sha256) == (len(data), hashlib.sha256(data).hexdigest())
            assert self.both(lambda store: store.get(name)) == data
            assert self.both(lambda store: store.path(name, stat.sha256).read_bytes()) == data
        else:
            assert stat is None

    @rule(prefix=PREFIXES)
    def search(self, prefix: str) -> None:
        found = self.both(lambda store: [(e.name, e.size_bytes) for e in store.entries(prefix)])
        expected = {name: len(data) for name, data in self.model.items() if name.startswith(prefix)}
        assert found == sorted(expected.items(), key=lambda item: item[0].encode())

    def teardown(self) -> None:
        found = self.both(lambda store: list(store.list("")))
        assert found == sorted(self.model, key=str.encode)
        for name, data in self.model.items():
            assert self.both(lambda store, name=name: store.get(name)) == data
        self.folder.cleanup()


@pytest.fixture(scope="module")
def server(s3_environment: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(s3_environment)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("server")
def test_random_operations_leave_both_stores_alike() -> None:
    run_state_machine_as_test(TwoStores, settings=settings(settings.default, stateful_step_count=15))
