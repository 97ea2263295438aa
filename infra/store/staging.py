"""Local copies of the objects of a remote store, shared by processes.

The name of a copy is the SHA-256 of its bytes, which the manifest gives, and the extension of the object.
Equal objects of all stores and runs share one copy, and every copy is checked after it is fetched.

A process that fetches a copy holds an exclusive file lock on it (flock): other processes wait, and then use
the copy. The next process resumes a fetch whose process died. Whoever uses a copy holds a shared lock on it.

While all copies together exceed the size limit, or leave less than 1 GiB of the disk free, those that nobody
uses are removed, the least recently used first. A copy in use is never removed, even beyond the limit.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from hemaflow.infra.store.base import file_sha256


class Writer(Protocol):
    """A target for bytes."""

    def write(self, data: bytes) -> int:
        """Write all bytes; return how many there were."""


Fetch = Callable[[Writer, int], None]
"""Called with a writer and the number of bytes that are already there; writes the rest."""
READS = 4
"""Number of reads of an object whose bytes are not those that were recorded: the network may damage bytes."""
PARTIAL_SECONDS = 7 * 86400.0
"""Age after which an incomplete copy is deleted."""
FREE_BYTES = 2**30
"""Space that copies leave free on the disk: for the fetches under way, and for everybody else."""


class Altered(Exception):
    """The fetched bytes do not have the expected SHA-256."""


class Staging:
    """A folder of local copies.

    Args:
        folder: The folder.
        limit_bytes: Size limit of all copies; copies in use are kept even beyond it.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder.expanduser().absolute(), limit_bytes
        self._used: dict[Path, BinaryIO] = {}
        self._checked: dict[Path, tuple[int, int, int]] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._used)

    def path(self, sha256: str, suffix: str, fetch: Fetch) -> Path:
        """Return the copy with that SHA-256, fetched if necessary.

        It is protected from removal until `release`, or for as long as this object exists.

        Raises:
            Altered: `fetch` wrote other bytes, at every attempt.
        """
        path = self._file(sha256, suffix)
        with self._lock:
            if path in self._used:
                return path
        used = self._use(sha256, path, fetch)
        with self._lock:
            kept = self._used.setdefault(path, used)
        if kept is not used:  # another thread was first
            used.close()
        return path

    @contextmanager
    def lend(self, sha256: str, suffix: str, fetch: Fetch) -> Iterator[Path]:
        """Yield the copy with that SHA-256 as `path` does; it is protected while the context is open."""
        path = self._file(sha256, suffix)
        with self._use(sha256, path, fetch):
            yield path

    def adopt(self, sha256: str, suffix: str, path: Path) -> None:
        """Keep an uploaded local file as a copy, so that no process of this machine fetches it.

        The file may be deleted afterwards, but must not be written to.
        """
        target = self._file(sha256, suffix)
        with self._exclusive(target):
            if not target.is_file():
                partial = self._partial(target)
                partial.unlink(missing_ok=True)
                try:
                    os.link(path, partial)
                except OSError:  # another file system
                    shutil.copyfile(path, partial)
                os.replace(partial, target)
        self._make_room()

    def release(self) -> None:
        """Allow the removal of all copies that `path` returned."""
        with self._lock:
            _close_all(self._used)

    def _use(self, sha256: str, path: Path, fetch: Fetch) -> BinaryIO:
        """Return the copy as an open file, fetched if necessary; no process removes it until it is closed."""
        with self._exclusive(path):
            if not self._is_intact(path, sha256):
                path.unlink(missing_ok=True)
                self._fetch(sha256, path, fetch)
            os.utime(path)
            self._checked[path] = _signature(path)
            used = path.open("rb")
            fcntl.flock(used, fcntl.LOCK_SH)
        self._make_room()
        return used

    def _is_intact(self, path: Path, sha256: str) -> bool:
        """Return whether there is a copy with that SHA-256; reads it, unless it is as this object left it."""
        if not path.is_file():
            return False
        return self._checked.get(path) == _signature(path) or file_sha256(path) == sha256

    def _fetch(self, sha256: str, path: Path, fetch: Fetch) -> None:
        partial = self._partial(path)
        for _ in range(READS):  # the first may have gone on with bytes of a damaged beginning
            with _Hashed(partial) as hashed:
                fetch(hashed, hashed.size_bytes)
            if hashed.sha256() == sha256:
                os.replace(partial, path)
                return
            partial.unlink()
        raise Altered(sha256)

    def _make_room(self) -> None:
        """Remove unused copies, the least recently used first, until the limits are met."""
        for partial in self.folder.glob("partial/*"):
            with suppress(FileNotFoundError):
                if partial.stat().st_mtime < time.time() - PARTIAL_SECONDS:
                    partial.unlink()
        copies = []
        for path in self.folder.glob("objects/??/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                copies.append((status.st_mtime, status.st_size, path))
        missing = FREE_BYTES - shutil.disk_usage(self.folder).free
        excess = max(missing, sum(size for _, size, _ in copies) - self.limit_bytes)
        for _, size, path in sorted(copies):
            if excess <= 0:
                return
            if self._remove(path):
                excess -= size

    def _remove(self, path: Path) -> bool:
        """Remove a copy unless a process uses or fetches it, or has removed it."""
        with self._exclusive(path, wait=False) as held, suppress(FileNotFoundError):
            if held:
                with path.open("rb") as file, suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    return True
        return False

    @contextmanager
    def _exclusive(self, copy: Path, wait: bool = True) -> Iterator[bool]:
        """Lock a copy against other threads and processes; yield whether that succeeded."""
        # A few locks for all copies: lock files that came and went could be locked by two.
        lock = self.folder / "locks" / copy.name[:2]
        for folder in (lock.parent, copy.parent, self._partial(copy).parent):
            folder.mkdir(parents=True, exist_ok=True)
        with lock.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def _file(self, sha256: str, suffix: str) -> Path:
        return self.folder / "objects" / sha256[:2] / f"{sha256}{suffix}"

    def _partial(self, copy: Path) -> Path:
        return self.folder / "partial" / copy.name


class _Hashed:
    """A file that is appended to; its SHA-256 is computed as bytes pass, so they are not read again."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self.size_bytes = self._file.tell()
        self._digest = hashlib.sha256()
        if self.size_bytes:
            with path.open("rb") as begun:
                self._digest = hashlib.file_digest(begun, "sha256")

    def __enter__(self) -> _Hashed:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def sha256(self) -> str:
        return self._digest.hexdigest()


def _signature(path: Path) -> tuple[int, int, int]:
    """Return what changes whenever a file is written to or replaced: inode, size and time of change."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _close_all(files: dict[Path, BinaryIO]) -> None:
    """Close files, which gives back the locks on them, and forget them."""
    while files:
        files.popitem()[1].close()
