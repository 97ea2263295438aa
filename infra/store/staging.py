"""Local copies of objects of a remote store, shared safely by processes, in bounded space.

A copy is a file named by the SHA-256 of its bytes, so it serves every store and run (and by the ending of the
object's name, which tells libraries what it is). Whoever fetches one holds the kernel's lock on it: others
wait and then find it there, and what a killed process had fetched is gone on with. Whoever uses one holds a
shared lock for as long as it lives: what is in use is never removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from hemaflow.infra.store.base import file_sha256


class Writer(Protocol):
    """What bytes are written to."""

    def write(self, data: bytes) -> int:
        """Write all of them; return how many there were."""


Fetch = Callable[[Writer, int], None]
"""Called with what takes the bytes, and how many of the object are there: writes the rest."""
READS = 4
"""How often bytes are read that are not those that were recorded: they may have been damaged on their way."""
PARTIAL_SECONDS = 7 * 86400.0
"""How long a part of an object waits for somebody to go on with it."""


class Altered(Exception):
    """What was fetched does not have the SHA-256 that was asked for."""


class Staging:
    """A folder of local copies.

    Args:
        folder: Where they are.
        limit_bytes: How much is kept that no process uses.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder.expanduser().absolute(), limit_bytes
        self._used: dict[Path, int] = {}
        self._lock = threading.Lock()

    def path(self, sha256: str, suffix: str, fetch: Fetch) -> Path:
        """Return the copy with that SHA-256, fetched where it is not there, and keep it from removal.

        Raises:
            Altered: What `fetch` wrote has another SHA-256, however often.
        """
        path = self._file(sha256, suffix)
        with self._lock:
            if path in self._used:
                return path
        with self._exclusive(path):
            if not (path.is_file() and file_sha256(path) == sha256):
                path.unlink(missing_ok=True)
                self._fetch(sha256, path, fetch)
            os.utime(path)
            self._use(path)
        self._make_room()
        return path

    def adopt(self, sha256: str, suffix: str, path: Path) -> None:
        """Take over the bytes of a local file that was sent to the store: nobody here need fetch it.

        The file may be removed afterwards, but must not be written to.
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
        """Let everything that this process uses be removed."""
        with self._lock:
            for descriptor in self._used.values():
                os.close(descriptor)
            self._used.clear()

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

    def _use(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with self._lock:
            self._used[path] = descriptor

    def _make_room(self) -> None:
        """Remove the copies that were used longest ago and are in nobody's use, until the limit holds."""
        for partial in self.folder.glob("partial/*"):
            with suppress(FileNotFoundError):
                if partial.stat().st_mtime < time.time() - PARTIAL_SECONDS:
                    partial.unlink()
        copies = []
        for path in self.folder.glob("objects/??/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                copies.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in copies) - self.limit_bytes
        for _, size, path in sorted(copies):
            if excess <= 0:
                return
            if self._remove(path):
                excess -= size

    def _remove(self, path: Path) -> bool:
        """Remove a copy unless somebody uses, fetches or has removed it."""
        with self._exclusive(path, wait=False) as held, suppress(FileNotFoundError):
            if held:
                with path.open("rb") as file, suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    return True
        return False

    @contextmanager
    def _exclusive(self, copy: Path, wait: bool = True) -> Iterator[bool]:
        """Be the only one, among threads and processes, to change that copy; give whether we are."""
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
    """A file that is written on at its end, and its SHA-256: taken as bytes pass, not read again for it."""

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
