"""A store in a local folder: the embedded default.

Objects are files. Its entity tag is the SHA-256 of the content.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hemaflow.infra.errors import StoreError, StoreFull
from hemaflow.infra.store.base import Entry, Stat, Store, check_name, file_sha256

_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class LocalStore(Store):
    """A store in a local folder, safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.url = str(self.root)

    def get(self, name: str) -> bytes:
        """See Store."""
        try:
            return self._file(name).read_bytes()
        except _ABSENT:
            raise self.missing(name) from None

    def get_tagged(self, name: str) -> tuple[bytes, str] | None:
        """See Store."""
        try:
            data = self._file(name).read_bytes()
        except _ABSENT:
            return None
        return data, hashlib.sha256(data).hexdigest()

    def stat(self, name: str) -> Stat | None:
        """See Store."""
        try:
            with self._file(name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                return Stat(size, hashlib.file_digest(file, "sha256").hexdigest())
        except _ABSENT:
            return None

    def put(self, name: str, data: bytes) -> None:
        """See Store."""
        with self._staged(name) as staged:
            staged.write_bytes(data)
            _sync(staged)
            os.replace(staged, self._file(name))

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """See Store."""
        with self._staged(name) as staged:
            shutil.copyfile(path, staged)
            _sync(staged)
            os.replace(staged, self._file(name))

    def create(self, name: str, data: bytes) -> bool:
        """See Store. A hard link is the file system's own "only if absent"."""
        with self._staged(name) as staged:
            staged.write_bytes(data)
            _sync(staged)
            try:
                os.link(staged, self._file(name))
            except FileExistsError:
                return False
        return True

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        """See Store. The lock that guards compare-and-replace is the kernel's, and dies with its holder."""
        with self._staged(name) as staged:
            staged.write_bytes(data)
            _sync(staged)
            with (self.root / ".staging" / "swap.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                current = self.get_tagged(name)
                if current is None or current[1] != tag:
                    return False
                os.replace(staged, self._file(name))
        return True

    def delete(self, names: Iterable[str]) -> None:
        """See Store. Folders that become empty stay: another process may be about to write there."""
        for name in list(names):
            with suppress(*_ABSENT):
                self._file(name).unlink()

    def entries(self, prefix: str) -> Iterator[Entry]:
        """See Store."""
        folder = self.root / prefix.rpartition("/")[0]
        found = (
            (Path(parent) / file).relative_to(self.root).as_posix()
            for parent, _, files in os.walk(folder, onerror=self._not_listed)
            for file in files
        )
        for name in sorted(name for name in found if name.startswith(prefix)):
            if name.startswith(".staging/"):
                continue
            with suppress(FileNotFoundError):  # removed while we look
                status = (self.root / name).stat()
                yield Entry(name, status.st_size, status.st_mtime)

    def path(self, name: str, sha256: str) -> Path:
        """See Store."""
        if self.content_sha256(name) != sha256:
            raise self.altered(name, sha256)
        return self._file(name)

    def content_sha256(self, name: str) -> str:
        """See Store."""
        try:
            return file_sha256(self._file(name))
        except _ABSENT:
            raise self.missing(name) from None

    def drop_unfinished_writes(self, before: float) -> int:
        """See Store: files that killed processes left in the staging folder."""
        dropped = 0
        for path in (self.root / ".staging").glob("?" * 32):
            with suppress(FileNotFoundError):
                status = path.stat()
                if status.st_mtime < before:
                    path.unlink()
                    dropped += status.st_size
        return dropped

    def _file(self, name: str) -> Path:
        return self.root / check_name(name)

    @contextmanager
    def _staged(self, name: str) -> Iterator[Path]:
        """Give a temporary file beside the objects; whatever happens, it does not stay."""
        target = self._file(name)
        staged: Path | None = None
        try:
            staging = self.root / ".staging"
            staging.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            staged = staging / secrets.token_hex(16)
            yield staged
        except OSError as error:
            raise self._explain(error, name) from error
        finally:
            if staged is not None:
                staged.unlink(missing_ok=True)

    def _not_listed(self, error: OSError) -> None:
        """Raise StoreError for a folder that cannot be listed, but for one that is not there."""
        if not isinstance(error, _ABSENT):
            raise StoreError(
                f"The store could not be listed: {error.strerror or error}.",
                where=str(error.filename),
                remedy="Check that the folder may be read, or choose another with --store.",
            ) from error

    def _explain(self, error: OSError, name: str) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StoreFull(
                "The disk is full: nothing of this object was kept.",
                where=f"{self.url}/{name}",
                remedy="Free some space, or choose another store with --store; then run the same command.",
            )
        return StoreError(
            f"The store could not write: {error.strerror or error}.",
            where=f"{self.url}/{name}",
            remedy="Check that the folder exists and may be written, or choose another with --store.",
        )


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
