"""The object store: named, immutable-by-convention byte strings behind one small interface.

A name is a relative POSIX path (`stages/train/4865b5…/manifest.json`); no name is the folder of another.
Writes are atomic: a reader sees the whole old object, the whole new one, or none. Two operations are
conditional, and everything that must happen once rests on them: `create` (S3's `If-None-Match: *`) and `swap`
(S3's `If-Match`).
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hemaflow.infra.errors import ObjectAltered, ObjectMissing, StoreError

REQUESTS_AT_ONCE = 16

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_NAME = re.compile(r"[A-Za-z0-9_.@=+-]+(/[A-Za-z0-9_.@=+-]+)*")


@dataclass(frozen=True)
class Stat:
    """What a store says of an object without handing over its bytes.

    Attributes:
        size_bytes: Its size.
        sha256: SHA-256 of its bytes: of those on the disk in a local store, the one recorded with the upload
            in S3; "" for an object that hemaflow did not write.
    """

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """An object as a listing shows it.

    Attributes:
        name: Its name.
        size_bytes: Its size.
        modified: When it was written last, by the store's clock: seconds since 1970.
        tag: Its entity tag where a listing shows it, else "".
    """

    name: str
    size_bytes: int
    modified: float
    tag: str = ""


class Store(ABC):
    """Named byte strings. Errors of the store are raised, never read as "not there".

    Example:
        >>> import hemaflow, tempfile
        >>> store = hemaflow.open_store(tempfile.mkdtemp())
        >>> store.put("notes/1.txt", b"stained anew")
        >>> list(store.list("notes/")), store.get("notes/1.txt")
        (['notes/1.txt'], b'stained anew')
    """

    url: str

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Return an object's bytes. Raises ObjectMissing."""

    @abstractmethod
    def get_tagged(self, name: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and entity tag, or None where there is no such object."""

    @abstractmethod
    def stat(self, name: str) -> Stat | None:
        """Return an object's size and SHA-256, or None where there is no such object."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Write an object, replacing one of the same name. Raises StoreFull."""

    @abstractmethod
    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """Write an object from a local file with that SHA-256, in bounded memory. Raises StoreFull."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write an object only if there is none of that name; False where there was."""

    @abstractmethod
    def swap(self, name: str, data: bytes, tag: str) -> bool:
        """Replace an object only if its entity tag is still `tag`; False where it is not."""

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; no error where there are none."""

    @abstractmethod
    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield, in byte order of their names, the objects whose names start with `prefix`."""

    @abstractmethod
    def path(self, name: str, sha256: str) -> Path:
        """Return a local, read-only file with the object's bytes, which were found to have that SHA-256.

        It stays there as long as this store does, and its name ends as the object's. A local copy with that
        SHA-256 is as good as the object.

        Raises:
            ObjectMissing: There is neither the object nor a copy.
            ObjectAltered: The object's bytes are others.
        """

    def lend(self, name: str, sha256: str) -> AbstractContextManager[Path]:
        """Lend a local file with the object's bytes, as `path` returns it, while the context is open.

        A store that keeps local copies may remove this one afterwards.
        """
        return nullcontext(self.path(name, sha256))

    @abstractmethod
    def content_sha256(self, name: str) -> str:
        """Read all of an object and return the SHA-256 of what was read. Raises ObjectMissing."""

    @abstractmethod
    def drop_unfinished_writes(self, before: float) -> int:
        """Remove what writes left behind that never ended and began before then; return its bytes.

        Args:
            before: Seconds since 1970.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """Yield, in byte order, the names that start with `prefix`."""
        return (entry.name for entry in self.entries(prefix))

    def missing(self, name: str) -> ObjectMissing:
        """Return the error for an object that is not there."""
        return ObjectMissing("There is no such object in the store.", where=f"{self.url}/{name}")

    def altered(self, name: str, sha256: str) -> ObjectAltered:
        """Return the error for an object whose bytes are not those that were recorded."""
        return ObjectAltered(
            "An object was changed after it was recorded.",
            expected=f"SHA-256 {sha256[:12]}…",
            where=f"{self.url}/{name}",
            remedy="Run `hemaflow verify --deep --remove`, then the same command again: what is damaged is "
            "computed again.",
        )


def in_parallel(request: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """Make a request of a store for each item, several at once; return the answers in order."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(request, items))


def check_name(name: str) -> str:
    """Return a name that is one. Raises StoreError."""
    if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise StoreError(
            "That is no name for an object.",
            expected="letters, digits and _.@=+- in parts divided by single slashes",
            received=repr(name),
        )
    return name


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
