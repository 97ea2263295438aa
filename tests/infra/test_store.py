from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.errors import ConfigError, ObjectMissing, StoreError
from infra.store import LocalStore, open_store


def test_what_was_put_is_got(store: LocalStore, tmp_path: Path) -> None:
    store.put("a/b", b"one")
    store.put("a/b", b"two")
    (tmp_path / "file").write_bytes(b"three")
    store.put_file("a/c", tmp_path / "file")
    assert store.get("a/b") == b"two"
    assert store.path("a/c").read_bytes() == b"three"
    assert store.size("a/c") == 5
    assert list(store.list("a/")) == ["a/b", "a/c"]


def test_others_may_read_what_the_umask_lets_them(store: LocalStore) -> None:
    umask = os.umask(0o027)
    try:
        store.put("a", b"x")
        store.create("b", b"x")
    finally:
        os.umask(umask)
    assert {store.path(name).stat().st_mode & 0o777 for name in ("a", "b")} == {0o640}


def test_an_absent_object_is_missing_and_no_error_to_delete(store: LocalStore) -> None:
    assert store.size("a") is None
    assert store.get_tagged("a") is None
    store.delete("a")
    with pytest.raises(ObjectMissing, match="no such object"):
        store.get("a")


def test_create_has_one_winner_among_threads(store: LocalStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.create("once", str(n).encode()), range(32)))
    assert won.count(True) == 1
    assert store.get("once") == str(won.index(True)).encode()


def test_swap_only_replaces_what_was_seen(store: LocalStore) -> None:
    store.put("pointer", b"1")
    _, tag = store.get_tagged("pointer")  # type: ignore[misc]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.swap("pointer", f"next {n}".encode(), tag), range(16)))
    assert won.count(True) == 1
    assert not store.swap("absent", b"x", tag)


@pytest.mark.parametrize("name", ["../a", "/a", "a//b", "a/./b", "", "a/..", "a\0b", "a b"])
def test_a_name_never_leaves_the_store(store: LocalStore, name: str) -> None:
    with pytest.raises(StoreError, match="no name for an object"):
        store.put(name, b"")


def test_a_full_disk_is_told_and_leaves_nothing(store: LocalStore) -> None:
    """A process whose files may not grow: the kernel refuses the write as a full disk would."""
    code = (
        "import resource, signal, sys; from infra.store import LocalStore; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = LocalStore(Path(sys.argv[1])); store.put('small', b'x' * 1000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "store.put('large', b'x' * 100_000)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(store.root)], capture_output=True, text=True)
    assert result.returncode == 1
    assert "infra.errors.StoreFull: The disk is full" in result.stderr
    assert "Free some space" in result.stderr
    assert list(store.list("")) == ["small"]
    assert list((store.root / ".staging").iterdir()) == []


def test_a_store_that_cannot_be_opened_names_the_expected_form() -> None:
    with pytest.raises(ConfigError, match="a local folder") as raised:
        open_store("ftp://user:secret@host")
    assert "secret" not in str(raised.value)
