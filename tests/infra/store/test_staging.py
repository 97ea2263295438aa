from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hemaflow.infra.store.staging import PARTIAL_SECONDS, Altered, Fetch, Staging, Writer


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(data: bytes, fetched: list[int] | None = None) -> Fetch:
    def give(file: Writer, start: int) -> None:
        if fetched is not None:
            fetched.append(start)
        file.write(data[start:])

    return give


def never(*_: object) -> None:
    raise AssertionError("fetched although it was there")


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "staging", limit_bytes=1000)


def test_a_copy_is_fetched_once(staging: Staging) -> None:
    data, fetched = b"content", list[int]()
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: staging.path(sha256(data), ".x", fetch(data, fetched)), range(16)))
    assert {path.read_bytes() for path in paths} == {data}
    assert fetched == [0]


def test_a_fetch_that_was_cut_goes_on(staging: Staging) -> None:
    data, fetched = b"content", list[int]()

    def cut(file: Writer, start: int) -> None:
        file.write(data[:3])
        raise ConnectionError

    with pytest.raises(ConnectionError):
        staging.path(sha256(data), ".x", cut)
    assert staging.path(sha256(data), ".x", fetch(data, fetched)).read_bytes() == data
    assert fetched == [3]


def test_a_damaged_beginning_is_fetched_again_and_damaged_content_refused(staging: Staging) -> None:
    data, fetched = b"content", list[int]()

    def damaged(file: Writer, start: int) -> None:
        file.write(b"CON")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        staging.path(sha256(data), ".x", damaged)
    assert staging.path(sha256(data), ".x", fetch(data, fetched)).read_bytes() == data
    assert fetched == [3, 0]
    with pytest.raises(Altered):
        staging.path(sha256(b"other"), ".x", fetch(data))


def test_a_copy_that_was_altered_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    data = b"content"
    Staging(tmp_path, 1000).path(sha256(data), ".x", fetch(data)).write_bytes(b"CONTENT")
    assert Staging(tmp_path, 1000).path(sha256(data), ".x", fetch(data)).read_bytes() == data


def test_what_was_sent_need_not_be_fetched(staging: Staging, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    staging.adopt(sha256(b"content"), ".x", tmp_path / "file")
    (tmp_path / "file").unlink()
    assert staging.path(sha256(b"content"), ".x", never).read_bytes() == b"content"


def test_the_limit_holds_for_what_nobody_uses(tmp_path: Path) -> None:
    contents = [bytes([number]) * 400 for number in range(6)]
    for age, data in enumerate(contents):
        other = Staging(tmp_path, 1000)
        os.utime(other.path(sha256(data), ".x", fetch(data)), (time.time() - 100 + age,) * 2)
        other.release()
    kept = [
        data for data in contents if (tmp_path / "objects" / sha256(data)[:2] / f"{sha256(data)}.x").exists()
    ]
    assert kept == contents[-2:]  # those used last


def copies(staging: Staging) -> list[bytes]:
    return sorted(path.read_bytes() for path in staging.folder.glob("objects/??/*"))


def test_a_copy_that_was_given_back_may_go(staging: Staging) -> None:
    first, second, third = (letter * 600 for letter in (b"a", b"b", b"c"))
    with staging.lend(sha256(first), ".x", fetch(first)) as path:
        with staging.lend(sha256(second), ".x", fetch(second)):
            assert copies(staging) == [first, second]  # beyond the limit, but in use
        with staging.lend(sha256(third), ".x", fetch(third)):
            assert copies(staging) == [first, third]
        assert path.read_bytes() == first
    with staging.lend(sha256(second), ".x", fetch(second)):
        assert copies(staging) == [second]
    other = Staging(staging.folder, 1000)
    other.path(sha256(first), ".x", fetch(first))
    with staging.lend(sha256(third), ".x", fetch(third)):
        assert copies(staging) == [first, third]
    del other  # what it used is free, as when its process ends
    with staging.lend(sha256(second), ".x", fetch(second)):
        assert copies(staging) == [second]


def test_a_copy_that_is_as_it_was_checked_is_not_read_again(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, read = b"content", list[Path]()
    monkeypatch.setattr("hemaflow.infra.store.staging.file_sha256", lambda path: read.append(path) or "")
    for _ in range(2):
        with staging.lend(sha256(data), ".x", fetch(data)) as path:
            pass
    assert not read
    path.write_bytes(b"CONTENT")
    with staging.lend(sha256(data), ".x", fetch(data)):
        assert path.read_bytes() == data
    assert read == [path]


def test_copies_leave_space_on_the_disk(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = b"a" * 400, b"b" * 400
    with staging.lend(sha256(first), ".x", fetch(first)):
        pass
    monkeypatch.setattr("hemaflow.infra.store.staging.FREE_BYTES", 2**80)  # more than any disk has
    with staging.lend(sha256(second), ".x", fetch(second)):
        assert copies(staging) == [second]


def use(folder: Path, data: bytes, ready: object, go_on: object) -> None:
    staging = Staging(folder, 1000)
    staging.path(sha256(data), ".x", fetch(data))
    ready.set()  # type: ignore[attr-defined]
    go_on.wait()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_what_another_process_uses_is_never_removed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, go_on = context.Event(), context.Event()
    used = b"u" * 900
    process = context.Process(target=use, args=(tmp_path, used, ready, go_on))
    process.start()
    assert ready.wait(30)
    staging = Staging(tmp_path, 1000)
    for number in range(3):
        data = bytes([number]) * 400
        staging.path(sha256(data), ".x", fetch(data))
        staging.release()
    assert staging.path(sha256(used), ".x", never).read_bytes() == used
    staging.release()
    go_on.set()
    process.join()
    staging.path(sha256(b"x" * 400), ".x", fetch(b"x" * 400))
    assert not (tmp_path / "objects" / sha256(used)[:2] / f"{sha256(used)}.x").exists()


def test_parts_that_nobody_goes_on_with_are_removed(staging: Staging) -> None:
    def cut(file: Writer, start: int) -> None:
        file.write(b"part")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        staging.path(sha256(b"old"), ".x", cut)
    (partial,) = (staging.folder / "partial").iterdir()
    long_ago = time.time() - PARTIAL_SECONDS - 1
    os.utime(partial, (long_ago, long_ago))
    staging.path(sha256(b"content"), ".x", fetch(b"content"))
    assert not partial.exists()
