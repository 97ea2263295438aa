"""What the stat cache must never do: give the SHA-256 of content that a file no longer has."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from hemaflow.infra import stat_cache, stat_database
from hemaflow.infra.errors import ConfigError
from hemaflow.infra.settings import Settings
from hemaflow.infra.stat_cache import Files, StatCache, stamp
from hemaflow.infra.stat_database import forget_all


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(stat_cache_dir=tmp_path / "cache", workers=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files of one size."""
    made = tmp_path / "data"
    made.mkdir()
    for number in range(5):
        (made / f"{number}.png").write_bytes(b"%d" % number * 100)
    return made


@pytest.fixture
def soon_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are old after 15 ms: Linux counts the times of files in steps of 10 ms at most."""
    monkeypatch.setattr(stat_cache, "RACY_NANOSECONDS", 15_000_000)


def become_old() -> None:
    time.sleep(0.03)


def listed(folder: Path) -> Files:
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    return Files([entry.name for entry in entries], b"".join(stamp(entry.stat()) for entry in entries))


def digests(folder: Path, settings: Settings | None) -> list[str]:
    with StatCache(settings) as cache:
        found = cache.folder_sha256s(folder, listed(folder))
    return [found[start : start + 32].hex() for start in range(0, len(found), 32)]


def truth(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    hashed = stat_cache._hashed

    def noted(path: str, stamp_listed: bytes) -> tuple[bytes, bool]:
        names.append(Path(path).name)
        return hashed(path, stamp_listed)

    monkeypatch.setattr(stat_cache, "_hashed", noted)
    return names


def test_what_did_not_change_is_read_once(
    folder: Path, settings: Settings, soon_old: None, read: list[str]
) -> None:
    become_old()
    assert digests(folder, settings) == truth(folder)
    assert sorted(read) == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    read.clear()
    assert digests(folder, settings) == truth(folder)
    assert read == []
    (folder / "2.png").write_bytes(b"new")
    (folder / "2b.png").write_bytes(b"came")
    (folder / "4.png").unlink()
    become_old()
    assert digests(folder, settings) == truth(folder)
    assert read == ["2.png", "2b.png"]
    read.clear()
    with StatCache(settings) as cache:
        assert cache.file_sha256(folder / "0.png") == truth(folder)[0]
        assert cache.file_sha256(folder / "0.png") == truth(folder)[0]
    assert digests(folder, settings) == truth(folder)
    assert read == ["0.png"]


def test_files_that_were_just_changed_are_read_each_time(
    folder: Path, settings: Settings, read: list[str]
) -> None:
    for _ in range(2):
        assert digests(folder, settings) == truth(folder)
    assert len(read) == 10
    for path in folder.iterdir():  # mtime says long ago: ctime counts, too
        os.utime(path, (1, 1))
    assert digests(folder, settings) == truth(folder)
    assert len(read) == 15


def test_a_change_of_the_same_size_whose_mtime_is_set_back_is_noticed(
    folder: Path, settings: Settings, soon_old: None
) -> None:
    become_old()
    before = digests(folder, settings)
    path, status = folder / "3.png", (folder / "3.png").stat()
    path.write_bytes(path.read_bytes().replace(b"3", b"7"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert digests(folder, settings) == truth(folder) != before


def test_a_file_that_takes_the_place_of_another_is_noticed(
    folder: Path, settings: Settings, soon_old: None
) -> None:
    """Two old files of one size and one mtime change names, as `mv` and a backup leave them."""
    for name in ("1.png", "2.png"):
        os.utime(folder / name, (1000, 1000))
    become_old()
    digests(folder, settings)
    (folder / "1.png").rename(folder / "x")
    (folder / "2.png").rename(folder / "1.png")
    (folder / "x").rename(folder / "2.png")
    assert digests(folder, settings) == truth(folder)


def test_no_change_is_missed_while_files_are_written_all_the_time(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is rewritten at the same size while it is hashed again and again; each quiet moment is true."""
    monkeypatch.setattr(stat_cache, "RACY_NANOSECONDS", 30_000_000)
    rng, is_over = random.Random(0), Event()

    def write() -> None:
        while not is_over.wait(rng.random() / 500):
            (folder / rng.choice(["0.png", "1.png"])).write_bytes(rng.randbytes(100))

    for _ in range(12):
        is_over.clear()
        writer = Thread(target=write)
        writer.start()
        for _ in range(4):
            digests(folder, settings)
        is_over.set()
        writer.join()
        assert digests(folder, settings) == truth(folder)


def test_the_racy_moment_would_be_missed_without_the_rule(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that counts whole hours, every change within the hour leaves the same stamp."""
    hour = 3600 * 10**9
    pack = stat_cache._STAMP.pack

    def coarse_stamp(status: os.stat_result) -> bytes:
        times = (status.st_mtime_ns // hour * hour, status.st_ctime_ns // hour * hour)
        return pack(status.st_dev, status.st_ino, status.st_size, *times)

    monkeypatch.setattr(stat_cache, "stamp", coarse_stamp)
    monkeypatch.setitem(globals(), "stamp", coarse_stamp)
    for rule, is_noticed in ((2 * hour, True), (-2 * hour, False)):
        monkeypatch.setattr(stat_cache, "RACY_NANOSECONDS", rule)
        (folder / "0.png").write_bytes(b"a" * 100)
        digests(folder, settings)
        (folder / "0.png").write_bytes(b"b" * 100)
        if time.time_ns() // hour == (folder / "0.png").stat().st_ctime_ns // hour:
            assert (digests(folder, settings) == truth(folder)) is is_noticed


# The database


def database(settings: Settings) -> Path:
    (found,) = settings.stat_cache_dir.glob("*.sqlite3")
    return found


def test_each_host_has_a_database_of_its_own(
    folder: Path, settings: Settings, soon_old: None, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    become_old()
    digests(folder, settings)
    here = database(settings)
    monkeypatch.setattr(stat_database.socket, "gethostname", lambda: "another")
    assert digests(folder, settings) == truth(folder)
    assert len(read) == 10
    assert len(list(settings.stat_cache_dir.glob("*.sqlite3"))) == 2
    (there,) = set(settings.stat_cache_dir.glob("*.sqlite3")) - {here}
    os.utime(there, (1, 1))
    monkeypatch.setattr(stat_database.socket, "gethostname", lambda: "a third")
    digests(folder, settings)
    assert here.exists()
    assert not there.exists()


@pytest.mark.parametrize("damage", ["text", "cut", "a page", "a row"])
def test_a_damaged_database_costs_time_and_no_more(
    folder: Path,
    settings: Settings,
    soon_old: None,
    read: list[str],
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    become_old()
    digests(folder, settings)
    path = database(settings)
    if damage == "text":
        path.write_text("no database " * 1000)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "a page":
        path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    else:
        with sqlite3.connect(path) as opened:
            opened.execute("UPDATE folders SET sha256s = zeroblob(length(sha256s))")
        opened.close()
    read.clear()
    assert digests(folder, settings) == truth(folder)
    assert len(read) == 5
    assert ("cannot be used" in caplog.text) is (damage != "a row")
    digests(folder, settings)
    read.clear()
    assert digests(folder, settings) == truth(folder)
    assert read == []


def test_a_database_that_cannot_be_made_or_is_locked_costs_time_and_no_more(
    folder: Path,
    settings: Settings,
    soon_old: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.stat_cache_dir.write_text("a file where the folder would be")
    assert digests(folder, settings) == truth(folder)
    assert "cannot be used" in caplog.text
    settings.stat_cache_dir.unlink()
    caplog.clear()
    become_old()
    digests(folder, settings)
    (folder / "0.png").write_bytes(b"another")
    become_old()
    monkeypatch.setattr(stat_database, "LOCK_SECONDS", 0.05)
    other = sqlite3.connect(database(settings), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert digests(folder, settings) == truth(folder)
    assert "locked" in caplog.text
    other.close()
    assert digests(folder, settings) == truth(folder)


def test_the_database_keeps_to_its_limit_and_drops_what_was_not_asked_for_longest(
    tmp_path: Path, soon_old: None, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(stat_cache_dir=tmp_path / "cache", stat_cache_bytes=100_000)
    folders = [tmp_path / f"data {number}" for number in range(6)]
    for folder in folders:
        folder.mkdir()
        for name in range(300):
            (folder / f"{name}").touch()
    become_old()
    today = time.time()
    for day, folder in enumerate(folders):
        monkeypatch.setattr(stat_database.time, "time", lambda day=day: today + day * 86400)
        digests(folder, settings)
        digests(folders[0], settings)
    assert database(settings).stat().st_size < 150_000
    read.clear()
    for folder in (folders[0], folders[-1]):
        digests(folder, settings)
    assert read == []
    digests(folders[1], settings)
    assert len(read) == 300


def test_threads_and_connections_share_the_database(
    folder: Path, settings: Settings, soon_old: None, caplog: pytest.LogCaptureFixture
) -> None:
    become_old()
    expected = truth(folder)
    found: list[list[str]] = []
    threads = [Thread(target=lambda: found.append(digests(folder, settings))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8
    assert caplog.text == ""


def test_all_can_be_forgotten(folder: Path, settings: Settings, soon_old: None, read: list[str]) -> None:
    forget_all(settings)
    become_old()
    digests(folder, settings)
    forget_all(settings)
    assert digests(folder, settings) == truth(folder)
    assert len(read) == 10
    database(settings).write_text("no database " * 1000)
    forget_all(settings)
    assert digests(folder, settings) == truth(folder)
    assert len(read) == 15


def test_what_cannot_be_forgotten_is_an_error(settings: Settings) -> None:
    forget_all(settings)
    path = database(settings)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"cannot be forgotten(.|\n)*HEMAFLOW_STAT_CACHE_DIR"):
        forget_all(settings)


def test_without_settings_nothing_is_recorded(folder: Path, soon_old: None, read: list[str]) -> None:
    become_old()
    for _ in range(2):
        assert digests(folder, None) == truth(folder)
    assert len(read) == 10
