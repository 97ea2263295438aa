"""A folder of files in S3 that others fill, as a folder on this machine.

Its content is told from the listing alone (names, sizes and entity tags); files are fetched when they are
needed, once, and again where they have changed. Processes share the local copy safely.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import REQUESTS_AT_ONCE, Entry
from hemaflow.infra.store.s3 import S3Store

_STATE = ".fetched.json"


class _AnyNames(S3Store):
    """A store whose objects were named by others, without our rules for names."""

    def _key(self, name: str) -> str:
        return self._prefix + name


class S3Folder:
    """The files under a prefix of a bucket.

    Args:
        url: s3://bucket/prefix.
        settings: Where downloads are kept.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self.url = url.rstrip("/")
        self._store = _AnyNames(bucket, prefix, settings)
        place = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        name = PurePosixPath(prefix.strip("/")).name or bucket
        self.path = settings.download_dir.expanduser().absolute() / "s3" / place / name

    @cached_property
    def files(self) -> dict[str, Entry]:
        """The files by their names relative to the prefix, as they were at the first look.

        Raises:
            DataError: One is named so that its copy would lie elsewhere.
        """
        found = {entry.name: entry for entry in self._store.entries("") if not entry.name.endswith("/")}
        for name in found:
            parts = name.split("/")
            if {"", ".", ".."} & set(parts) or "\\" in name or parts[0] == _STATE:
                raise DataError(
                    "A file of the bucket has a name that cannot be used.",
                    received=repr(name),
                    where=self.url,
                    remedy="Rename or remove it.",
                )
        return found

    def content_digest(self) -> str:
        """Return a SHA-256 that changes when a file comes, goes or changes; nothing is fetched for it."""
        total = hashlib.sha256()
        for name, entry in sorted(self.files.items()):
            total.update(f"{name}\0{entry.size_bytes}\0{entry.tag}\0".encode())
        return total.hexdigest()

    def fetch(self) -> Path:
        """Update the local copy and return its folder. Raises StoreError."""
        with self._exclusive():
            state = self.path.parent / _STATE
            kept: dict[str, str] = json.loads(state.read_text()) if state.is_file() else {}
            for path in list(self.path.rglob("*")):
                if path.is_file() and path.relative_to(self.path).as_posix() not in self.files:
                    path.unlink()
            wanted = [
                entry
                for name, entry in self.files.items()
                if kept.get(name) != entry.tag or not (self.path / name).is_file()
            ]
            with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
                list(pool.map(self._fetch, wanted))
            temporary = state.with_suffix(".new")
            temporary.write_text(json.dumps({name: entry.tag for name, entry in self.files.items()}))
            os.replace(temporary, state)
        return self.path

    def _fetch(self, entry: Entry) -> None:
        target = self.path / entry.name
        if target.is_dir():  # what was a folder has become a file
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not beside the files: what a killed process left there would be taken for one.
        temporary = self.path.parent / f"{hashlib.sha256(entry.name.encode()).hexdigest()[:16]}.part"
        self._store.download(entry.name, temporary)
        os.replace(temporary, target)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
