"""The object store: named, immutable-by-convention byte strings behind one small interface.

A name is a relative POSIX path (`stages/train/4865b5…/manifest.json`). Writes are atomic: a reader sees the
whole old object, the whole new one, or none. Two operations are conditional, and everything that must happen
once rests on them: `create` (S3's `If-None-Match: *`) and `swap` (S3's `If-Match`).

`LocalStore` keeps objects as files under a folder. Its entity tag is the SHA-256 of the content.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import ConfigError, ObjectMissing, StoreError, StoreFull

_NAME = re.compile(r"[A-Za-z0-9_.@=+-]+(/[A-Za-z0-9_.@=+-]+)*")


class Store(ABC):
    """Named byte strings. Errors of the store are raised, never read as "not there"."""

    url: str

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Return an object's bytes. Raises ObjectMissing."""

    @abstractmethod
    def get_tagged(self, name: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and entity tag, or None where there is no such object."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return an object's size in bytes, or None where there is no such object."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Write an object, replacing one of the same name. Raises StoreFull."""

    @abstractmethod
    def put_file(self, name: str, path: Path) -> None:
        """Write an object from a local file, in bounded memory. Raises StoreFull."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write an object only if there is none of that name; False where there was."""

    @abstractmethod
    def swap(self, name: str, data: bytes, tag: str) -> bool:
        """Replace an object only if its entity tag is still `tag`; False where it is not."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object; no error where there is none."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Yield, in byte order, the names that start with `prefix`."""

    @abstractmethod
    def path(self, name: str) -> Path:
        """Return a local, read-only file with the object's bytes. Raises ObjectMissing."""

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of the object's bytes as they are now. Raises ObjectMissing."""
        return file_sha256(self.path(name))


class LocalStore(Store):
    """A store in a local folder, safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.url = str(self.root)

    def get(self, name: str) -> bytes:
        """See Store."""
        try:
            return self._file(name).read_bytes()
        except FileNotFoundError:
            raise self._missing(name) from None

    def get_tagged(self, name: str) -> tuple[bytes, str] | None:
        """See Store."""
        try:
            data = self._file(name).read_bytes()
        except FileNotFoundError:
            return None
        return data, hashlib.sha256(data).hexdigest()

    def size(self, name: str) -> int | None:
        """See Store."""
        try:
            return self._file(name).stat().st_size
        except FileNotFoundError:
            return None

    def put(self, name: str, data: bytes) -> None:
        """See Store."""
        with self._staged(name) as staged:
            staged.write_bytes(data)
            _sync(staged)
            os.replace(staged, self._file(name))

    def put_file(self, name: str, path: Path) -> None:
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

    def delete(self, name: str) -> None:
        """See Store."""
        self._file(name).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[str]:
        """See Store."""
        folder = self.root / prefix.rpartition("/")[0]
        found = (
            (Path(parent) / file).relative_to(self.root).as_posix()
            for parent, _, files in os.walk(folder)
            for file in files
        )
        names = (name for name in found if name.startswith(prefix))
        yield from sorted(name for name in names if not name.startswith(".staging/"))

    def path(self, name: str) -> Path:
        """See Store."""
        path = self._file(name)
        if not path.is_file():
            raise self._missing(name)
        return path

    def _file(self, name: str) -> Path:
        if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
            raise StoreError(
                "That is no name for an object.",
                expected="letters, digits and _.@=+- in parts divided by single slashes",
                received=repr(name),
            )
        return self.root / name

    def _missing(self, name: str) -> ObjectMissing:
        return ObjectMissing("There is no such object in the store.", where=f"{self.url}/{name}")

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


def open_store(url: str) -> Store:
    """Open the store that `url` names: a local folder (a path, or file://…)."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalStore(Path(url))
    if scheme == "file":
        return LocalStore(Path(rest))
    raise ConfigError(
        "No store can be opened there.",
        expected="a local folder or file:///folder",
        received=f"--store {scheme}://…",
        remedy="Give --store a folder.",
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
