"""SHA-256 of source files, remembered by the status of each file: what did not change is not read again.

A SQLite database keeps, for each folder, the names of its files, and of each file a stamp and the SHA-256.
The stamp is what the file system says of the file: device, inode, size, mtime and ctime. A file whose stamp
is the recorded one has the recorded SHA-256. Programs can set mtime back, but not ctime.

A file that was changed so recently that another change could leave the same stamp is not recorded: its mtime
and ctime must be RACY_NANOSECONDS older than the moment at which hashing it began. Git calls such files
racily clean (Documentation/technical/racy-git.txt). Nor is a file whose stamp changes while it is read.

Guarantees:
- The database serves one host, which its name tells, and never another. It never enters the store.
- Processes share it: SQLite's write-ahead log, short transactions, a timeout.
- A damaged, locked or unwritable database costs time and a warning, never an error or a wrong SHA-256: each
  row has a checksum.
- Its size is bounded: the folders that were not asked for longest are dropped.

Not noticed, as in git: a program that maps a file into memory and goes on writing to it, where the kernel
updates no time; a network file system whose clock is behind and that counts whole seconds.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import sqlite3
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.settings import Settings

log = logging.getLogger(__name__)

RACY_NANOSECONDS = 2_000_000_000
"""Coarsest step of the times that a file system keeps: FAT, 2 seconds (Microsoft's FAT specification)."""
SHA256_BYTES = 32
LOCK_SECONDS = 5.0
"""How long a process waits for another that writes; a transaction takes much less than a second."""
FLUSH_SECONDS = 5.0
"""What is hashed is recorded at least this often, so that a killed process loses little."""
FLUSH_BYTES = 32 << 20
"""What is hashed is recorded as soon as it is this much."""
FILES_AT_ONCE = 64
"""Files that a thread hashes before it takes others."""
WHOLE_BYTES = 1 << 20
"""Files up to this size are read at once."""
OTHER_HOST_SECONDS = 90 * 86400.0
"""Age after which the database of another host, such as a former container, is removed."""
DAY_SECONDS = 86400

_STAMP = struct.Struct("<QQqqq")
STAMP_BYTES = _STAMP.size
_NO_STAMP = bytes(STAMP_BYTES)
"""Stamp of a file whose status does not fit: it is never recorded."""
_DERIVED = b"\0"
"""First byte of the keys of derived bytes; no path has it."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_ROW_BYTES = 512
"""What a row takes beside its content, at most."""
# What is read without the content comes first: SQLite reads a row from its beginning.
_TABLE = """
CREATE TABLE IF NOT EXISTS folders (
    path BLOB PRIMARY KEY, day INTEGER, size_bytes INTEGER, crc32 INTEGER,
    names BLOB, stamps BLOB, sha256s BLOB
)"""
_TRIM = """
DELETE FROM folders WHERE path IN (
    SELECT path FROM (SELECT path, SUM(size_bytes) OVER (ORDER BY day DESC, path) AS total FROM folders)
    WHERE total > ?
)"""


class Files(NamedTuple):
    """The files of one folder."""

    names: Sequence[str]
    """Their names, in order."""
    stamps: bytes
    """The stamp of each, STAMP_BYTES long, as it was when they were listed."""


class _Row(NamedTuple):
    """What is recorded of one folder, as bytes."""

    names: bytes
    """Joined by NUL."""
    stamps: bytes
    sha256s: bytes

    def crc32(self) -> int:
        """Return the checksum of the row."""
        return zlib.crc32(self.sha256s, zlib.crc32(self.stamps, zlib.crc32(self.names)))

    def size_bytes(self) -> int:
        """Return how much space the row takes."""
        return len(self.names) + len(self.stamps) + len(self.sha256s)


def stamp(status: os.stat_result) -> bytes:
    """Return the stamp of a file: STAMP_BYTES bytes, equal only while the file is unchanged."""
    try:
        return _STAMP.pack(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )
    except struct.error:  # a time after the year 2262
        return _NO_STAMP


def sha256_at(sha256s: bytes, place: int) -> bytes:
    """Return one of several SHA-256s that `StatCache` gives, by its place from 0."""
    return sha256s[place * SHA256_BYTES : (place + 1) * SHA256_BYTES]


class StatCache:
    """The SHA-256s that are recorded on this machine. Use as a context manager, in one thread.

    Args:
        settings: Where the database is, how large it may become, and how many threads hash; None for no
            database: every file is read.
    """

    def __init__(self, settings: Settings | None) -> None:
        self._threads = settings.workers if settings else 1
        self._limit_bytes = settings.stat_cache_bytes if settings else 0
        self._path = _database_path(settings) if settings else None
        self._database: sqlite3.Connection | None = None
        self._new: dict[bytes, _Row] = {}
        self._new_bytes = 0
        self._used: list[bytes] = []
        self._flushed = time.monotonic()
        self._today = int(time.time()) // DAY_SECONDS

    def __enter__(self) -> StatCache:
        """Open the database."""
        if self._path:
            try:
                self._database = _opened(self._path)
            except (sqlite3.Error, OSError) as error:
                self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        """Record what is new, keep the size limit, and close the database."""
        self._flush()
        self._trim()
        if self._database:
            self._database.close()
            self._database = None

    def folder_sha256s(self, folder: Path, files: Files) -> bytes:
        """Return the SHA-256 of each file of a folder, SHA256_BYTES each, in the order of their names.

        Args:
            folder: The folder, absolute and without links.
            files: All its files that count: those that an earlier call had and this one lacks are forgotten.

        Raises:
            OSError: A file cannot be read; its `filename` is the file.
        """
        return self._sha256s(os.fsencode(folder), folder, files)

    def file_sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file, in hexadecimal digits. Raises OSError."""
        path = path.resolve()
        files = Files([path.name], stamp(path.stat()))
        return self._sha256s(os.fsencode(path), path.parent, files).hex()

    def derived(self, name: str) -> bytes:
        """Return the bytes that were kept under a name; empty where there are none."""
        row = self._load(_DERIVED + name.encode())
        return row.sha256s if row else b""

    def keep_derived(self, name: str, content: bytes) -> None:
        """Keep bytes under a name that holds all they depend on, such as the SHA-256 of a file."""
        self._note(_DERIVED + name.encode(), _Row(b"", b"", content))

    def _sha256s(self, key: bytes, folder: Path, files: Files) -> bytes:
        names, recorded = os.fsencode("\0".join(files.names)), self._load(key)
        if recorded and recorded.names == names and recorded.stamps == files.stamps:
            return recorded.sha256s
        sha256s, is_sure = _unchanged(recorded, files)
        wanted = [place for place, sure in enumerate(is_sure) if not sure]
        for place, (sha256, is_kept) in zip(wanted, self._hash(folder, files, wanted), strict=True):
            sha256s[place * SHA256_BYTES : (place + 1) * SHA256_BYTES] = sha256
            is_sure[place] = is_kept
        sure = [place for place, is_kept in enumerate(is_sure) if is_kept]
        kept_names = os.fsencode("\0".join(files.names[place] for place in sure))
        kept = _Row(
            kept_names, _chosen(files.stamps, STAMP_BYTES, sure), _chosen(sha256s, SHA256_BYTES, sure)
        )
        if kept != recorded:
            self._note(key, kept)
        return bytes(sha256s)

    def _hash(self, folder: Path, files: Files, places: Sequence[int]) -> Iterator[tuple[bytes, bool]]:
        """Read files; yield of each its SHA-256, and whether its stamp stands for it."""

        def hash_some(start: int) -> list[tuple[bytes, bool]]:
            return [
                _hashed(os.path.join(folder, files.names[place]), _part(files.stamps, STAMP_BYTES, place))
                for place in places[start : start + FILES_AT_ONCE]
            ]

        starts = range(0, len(places), FILES_AT_ONCE)
        if len(starts) < 2 or self._threads < 2:
            yield from (each for start in starts for each in hash_some(start))
            return
        with ThreadPoolExecutor(self._threads) as pool:
            yield from (each for some in pool.map(hash_some, starts) for each in some)

    def _load(self, key: bytes) -> _Row | None:
        """Return what is recorded under a key; None where there is nothing, or it is damaged."""
        if key in self._new:
            return self._new[key]
        if self._database is None:
            return None
        try:
            found = self._database.execute(
                "SELECT names, stamps, sha256s, crc32, day FROM folders WHERE path = ?", (key,)
            ).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        if found is None:
            return None
        *content, crc32, day = found
        row = _Row(*content)
        if row.crc32() != crc32:
            return None
        if day != self._today:
            self._used.append(key)
        return row

    def _note(self, key: bytes, row: _Row) -> None:
        self._new[key] = row
        self._new_bytes += row.size_bytes()
        if self._new_bytes > FLUSH_BYTES or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        """Record what is new in one short transaction."""
        if self._database and (self._new or self._used):
            rows = [
                (key, self._today, row.size_bytes() + _ROW_BYTES, row.crc32(), *row)
                for key, row in self._new.items()
            ]
            try:
                with self._database:
                    self._database.execute("BEGIN IMMEDIATE")
                    self._database.executemany("INSERT OR REPLACE INTO folders VALUES (?,?,?,?,?,?,?)", rows)
                    self._database.executemany(
                        "UPDATE folders SET day = ? WHERE path = ?",
                        [(self._today, key) for key in self._used],
                    )
            except sqlite3.Error as error:
                self._give_up(error)
        self._new, self._used, self._new_bytes, self._flushed = {}, [], 0, time.monotonic()

    def _trim(self) -> None:
        """Drop the folders that were not asked for longest, until the size limit is met."""
        if self._database:
            try:
                pages, page_bytes = (
                    self._database.execute(f"PRAGMA {name}").fetchone()[0]
                    for name in ("page_count", "page_size")
                )
                if pages * page_bytes > self._limit_bytes:
                    self._database.execute(_TRIM, (self._limit_bytes,))
                    self._database.execute("PRAGMA incremental_vacuum").fetchall()
            except sqlite3.Error as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Go on without the database; remove one that is damaged."""
        log.warning("Files are read again, for the database of their checksums cannot be used: %s", error)
        if self._database:
            self._database.close()
            self._database = None
        if self._path and getattr(error, "sqlite_errorcode", None) in _DAMAGED:
            with suppress(OSError):
                _remove(self._path)


def forget_all(settings: Settings) -> None:
    """Forget all SHA-256s of this host, so that every file is read again.

    Raises:
        ConfigError: They cannot be removed.
    """
    path = _database_path(settings)
    with suppress(sqlite3.Error, OSError), closing(_opened(path)) as database:
        database.execute("DELETE FROM folders")
        return
    try:
        _remove(path)
    except OSError as error:
        raise ConfigError(
            "The checksums of source files cannot be forgotten.",
            received=error.strerror or str(error),
            where=str(path),
            remedy="Remove the file, or name another folder with HEMAFLOW_STAT_CACHE_DIR.",
        ) from error


def _database_path(settings: Settings) -> Path:
    """Return the database of this host."""
    return settings.stat_cache_dir.expanduser().absolute() / f"{_host()}.sqlite3"


def _host() -> str:
    """Return what tells this host from others, and stays the same when it starts again."""
    machine = str(uuid.getnode())
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):  # machine-id(5)
        with suppress(OSError):
            machine = Path(path).read_text(encoding="ascii").strip() or machine
            break
    return hashlib.sha256(f"{machine} {socket.gethostname()}".encode()).hexdigest()[:16]


def _opened(path: Path) -> sqlite3.Connection:
    """Return the database, made where there is none. Raises sqlite3.Error, OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _remove_other_hosts(path)
    database = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(_TABLE)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _remove_other_hosts(path: Path) -> None:
    """Remove databases beside this one that were not written for OTHER_HOST_SECONDS."""
    for other in path.parent.glob("*.sqlite3"):
        with suppress(OSError):
            if other.stat().st_mtime < time.time() - OTHER_HOST_SECONDS:
                _remove(other)


def _remove(path: Path) -> None:
    """Remove a database with its write-ahead log. Raises OSError."""
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _unchanged(recorded: _Row | None, files: Files) -> tuple[bytearray, bytearray]:
    """Return the recorded SHA-256s, and of each file whether it has one: its stamp is the recorded one."""
    sha256s, is_sure = bytearray(SHA256_BYTES * len(files.names)), bytearray(len(files.names))
    if recorded and recorded.stamps:
        places = {name: place for place, name in enumerate(os.fsdecode(recorded.names).split("\0"))}
        for place, name in enumerate(files.names):
            old = places.get(name)
            if old is None:
                continue
            if _part(recorded.stamps, STAMP_BYTES, old) == _part(files.stamps, STAMP_BYTES, place):
                found = _part(recorded.sha256s, SHA256_BYTES, old)
                sha256s[place * SHA256_BYTES : (place + 1) * SHA256_BYTES] = found
                is_sure[place] = True
    return sha256s, is_sure


def _hashed(path: str, listed: bytes | bytearray) -> tuple[bytes, bool]:
    """Return the SHA-256 of a file, and whether the stamp it was listed with stands for that content."""
    began = time.time_ns()
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_size <= WHOLE_BYTES:
                sha256 = hashlib.sha256(file.read()).digest()
            else:
                sha256 = hashlib.file_digest(file, "sha256").digest()
            is_same = stamp(status) == stamp(os.fstat(file.fileno())) == listed != _NO_STAMP
    except OSError as error:
        error.filename = error.filename or path
        raise
    *_, mtime, ctime = _STAMP.unpack(listed)
    return sha256, is_same and max(mtime, ctime) + RACY_NANOSECONDS < began


def _part(content: bytes | bytearray, size_bytes: int, place: int) -> bytes | bytearray:
    return content[place * size_bytes : (place + 1) * size_bytes]


def _chosen(content: bytes | bytearray, size_bytes: int, places: Sequence[int]) -> bytes:
    """Return those parts of equal size that lie at the places."""
    if len(places) * size_bytes == len(content):
        return bytes(content)
    return b"".join(_part(content, size_bytes, place) for place in places)
