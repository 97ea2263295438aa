"""The one suite that every kind of store passes."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hemaflow.infra.errors import ConfigError, ObjectAltered, ObjectMissing, StoreError
from hemaflow.infra.store.base import Stat, Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import STORES, StoreKind, open_store, store_forms


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_was_put_is_got(any_store: Store, tmp_path: Path) -> None:
    any_store.put("a/b", b"one")
    any_store.put("a/b", b"two")
    (tmp_path / "file").write_bytes(b"three")
    any_store.put_file("a/c", tmp_path / "file", sha256(b"three"))
    assert any_store.get("a/b") == b"two"
    assert any_store.path("a/c", sha256(b"three")).read_bytes() == b"three"
    assert any_store.stat("a/c") == Stat(5, sha256(b"three"))
    assert any_store.content_sha256("a/c") == sha256(b"three")
    assert list(any_store.list("a/")) == ["a/b", "a/c"]
    assert [entry.size_bytes for entry in any_store.entries("")] == [3, 5]
    assert all(abs(entry.modified - time.time()) < 60 for entry in any_store.entries(""))


def test_a_large_file_arrives_whole(any_store: Store, tmp_path: Path) -> None:
    """Of more than two parts, the last one short."""
    data = os.urandom(20_000_003)
    (tmp_path / "file").write_bytes(data)
    any_store.put_file("large", tmp_path / "file", sha256(data))
    (tmp_path / "file").unlink()
    assert any_store.stat("large") == Stat(len(data), sha256(data))
    assert any_store.content_sha256("large") == sha256(data)
    assert any_store.path("large", sha256(data)).read_bytes() == data


def test_an_empty_object_is_one(any_store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    any_store.put_file("empty", tmp_path / "empty", sha256(b""))
    assert any_store.get("empty") == b""
    assert any_store.path("empty", sha256(b"")).read_bytes() == b""


def test_an_absent_object_is_missing_and_no_error_to_delete(any_store: Store) -> None:
    assert any_store.stat("a") is None
    assert any_store.get_tagged("a") is None
    any_store.delete(["a", "b/c"])
    for read in (
        any_store.get,
        any_store.content_sha256,
        lambda name: any_store.path(name, sha256(b"never stored")),
    ):
        with pytest.raises(ObjectMissing, match="no such object"):
            read("a")


def test_a_local_file_keeps_the_ending_of_the_name(any_store: Store) -> None:
    """Keras and browsers go by it."""
    any_store.put("a/model.keras", b"same bytes")
    any_store.put("a/page.html", b"same bytes")
    assert any_store.path("a/model.keras", sha256(b"same bytes")).suffix == ".keras"
    assert any_store.path("a/page.html", sha256(b"same bytes")).suffix == ".html"


def test_a_local_file_is_checked(any_store: Store) -> None:
    any_store.put("a", b"one")
    with pytest.raises(ObjectAltered, match="changed after it was recorded"):
        # Bytes that no other test puts: a copy that one of them staged would do.
        any_store.path("a", sha256(b"bytes of no object"))


def test_names_come_in_the_order_of_their_bytes(any_store: Store) -> None:
    names = ["a-b", "a/b", "a/b-c", "a/b.d", "a0", "B/a", "b/a@1", "b/a=1"]
    for name in names:
        any_store.put(name, b"")
    assert list(any_store.list("")) == sorted(names, key=str.encode)
    assert list(any_store.list("a/b")) == ["a/b", "a/b-c", "a/b.d"]
    assert list(any_store.list("a/c")) == []


def test_more_objects_than_a_page_are_listed_and_deleted(any_store: Store) -> None:
    names = [f"many/{number:05}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: any_store.put(name, b""), names))
    assert list(any_store.list("many/")) == names
    any_store.delete(names)
    assert list(any_store.list("")) == []


def test_create_has_one_winner_among_threads(any_store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: any_store.create("once", str(n).encode()), range(16)))
    assert won.count(True) == 1
    assert any_store.get("once") == str(won.index(True)).encode()


def test_swap_only_replaces_what_was_seen(any_store: Store) -> None:
    any_store.put("pointer", b"1")
    _, tag = any_store.get_tagged("pointer")  # type: ignore[misc]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: any_store.swap("pointer", f"next {n}".encode(), tag), range(16)))
    assert won.count(True) == 1
    assert any_store.get("pointer") == f"next {won.index(True)}".encode()
    assert not any_store.swap("absent", b"x", tag)


@pytest.mark.parametrize("name", ["../a", "/a", "a//b", "a/./b", "", "a/..", "a\0b", "a b"])
def test_a_name_never_leaves_the_store(any_store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="no name for an object"):
        any_store.put(name, b"")


def test_every_kind_of_store_is_in_the_help_and_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"file", "s3"} <= set(STORES)
    monkeypatch.setitem(
        STORES._entries, "mem", StoreKind("mem://name", lambda name, settings: LocalStore(Path(name)))
    )
    assert open_store("mem://here").url == str(Path("here").absolute())
    with pytest.raises(ConfigError, match="mem://name"):
        open_store("memory://here")
    assert all(kind.form in store_forms() for kind in STORES.values())


def test_a_store_that_cannot_be_opened_names_the_expected_form() -> None:
    for url in ("ftp://user:secret@host", "s3://key:secret@bucket/prefix"):
        with pytest.raises(ConfigError, match="s3://bucket/prefix") as raised:
            open_store(url)
        assert "secret" not in str(raised.value)
