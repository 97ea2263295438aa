"""The database of the stat cache: rows of bytes under keys, in SQLite, bounded and shared by processes.

Guarantees:
- It serves one host, which its name tells, and never another. It never enters the store.
- Processes share it: SQLite's write-ahead log, short transactions, a timeout.
- A row is believed only where its checksum is right. Where the database is damaged, locked or cannot be
  written, a warning says so, and nothing is found and nothing kept: that costs time, and no more.
- Its size is bounded: the rows that were not asked for longest are dropped.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import sqlite3
import time
import uuid
import zlib
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.settings import Settings

log = logging.getLogger(__name__)

LOCK_SECONDS = 5.0
"""How long a process waits for another that writes; a transaction takes much less than a second."""
BUSY_SECONDS = 0.02
"""How long to wait before the next attempt to open a database that another process makes."""
FLUSH_SECONDS = 5.0
"""What is hashed is recorded at least this often, so that a killed process loses little."""
FLUSH_BYTES = 32 << 20
"""What is hashed is recorded as soon as it is this much."""
OTHER_HOST_SECONDS = 90 * 86400.0
"""Age after which the database of another host, such as a former container, is removed."""
DAY_SECONDS = 86400

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


class Row(NamedTuple):
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


class StatDatabase:
    """The rows of this host. Use as a context manager, in one thread.

    Args:
        settings: Where the database is, and how large it may become.
    """

    def __init__(self, settings: Settings) -> None:
        self._limit_bytes, self._path = settings.stat_cache_bytes, _database_path(settings)
        self._database: sqlite3.Connection | None = None
        self._new: dict[bytes, Row] = {}
        self._new_bytes = 0
        self._used: list[bytes] = []
        self._flushed = time.monotonic()
        self._today = int(time.time()) // DAY_SECONDS

    def __enter__(self) -> StatDatabase:
        """Open the database."""
        try:
            self._database = _opened(self._path)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is new, keep the size limit, and close the database."""
        self._flush()
        self._trim()
        if self._database:
            self._database.close()
            self._database = None

    def load(self, key: bytes) -> Row | None:
        """Return the row of a key; None where there is nothing, or it is damaged."""
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
        row = Row(*content)
        if row.crc32() != crc32:
            return None
        if day != self._today:
            self._used.append(key)
        return row

    def note(self, key: bytes, row: Row) -> None:
        """Keep a row under a key, instead of an earlier one."""
        self._new[key] = row
        self._new_bytes += row.size_bytes()
        if self._new_bytes > FLUSH_BYTES or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        """Write what is new in one short transaction."""
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
        if getattr(error, "sqlite_errorcode", None) in _DAMAGED:
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
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        database = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
        try:
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(_TABLE)
        except sqlite3.Error as error:
            database.close()
            # While another process makes the database, SQLite does not wait as it does elsewhere.
            is_busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(BUSY_SECONDS)
        else:
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
