"""A stage result while it is being made: objects first, the manifest last.

Objects go to `stages/<stage>/<key>/<sha256 prefix>/<name>`: two runs that make the same stage at once, or
make it again, never overwrite each other's bytes, and equal bytes land in the same place.
What an unfinished stage needs to go on later (checkpoints) goes to `stages/<stage>/<key>/work/…`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from hemaflow.infra.errors import StoreError
from hemaflow.infra.results.manifest import (
    KeyInputs,
    Manifest,
    StoredObject,
    canonical_json,
    load_manifest,
    manifest_name,
)
from hemaflow.infra.store.base import Store, file_sha256

Progress = Callable[[int, int, str], None]
"""Called with the units done, the total units, and what is being done."""


def silent(done: int, total: int, text: str) -> None:
    """Ignore the progress."""


class Draft:
    """The only way a stage writes: put objects, then commit.

    Args:
        store: Where the objects go.
        inputs: What the stage key is made of.
        progress: Told how far the stage is.
        replaces: Entity tag of a complete manifest that this result is to replace; "" where there is none.
    """

    def __init__(
        self, store: Store, inputs: KeyInputs, progress: Progress = silent, replaces: str = ""
    ) -> None:
        self.store, self.inputs, self.progress, self.replaces = store, inputs, progress, replaces
        self.stage, self.key = inputs.stage, inputs.key
        self._objects: dict[str, StoredObject] = {}

    @property
    def folder(self) -> str:
        """The prefix of every object of this result."""
        return f"stages/{self.stage}/{self.key}"

    def put(self, name: str, data: bytes, *, num_records: int = 0) -> StoredObject:
        """Write an object of this result. Raises StoreFull."""
        stored = self._describe(name, len(data), hashlib.sha256(data).hexdigest(), num_records)
        self.store.put(stored.location, data)
        return self.adopt(stored)

    def put_file(self, name: str, path: Path, *, num_records: int = 0) -> StoredObject:
        """Write an object of this result from a local file, in bounded memory. Raises StoreFull."""
        stored = self._describe(name, path.stat().st_size, file_sha256(path), num_records)
        self.store.put_file(stored.location, path, stored.sha256)
        return self.adopt(stored)

    def adopt(self, stored: StoredObject) -> StoredObject:
        """Add an object that is already in the store (a committed part) to this result."""
        if self._objects.setdefault(stored.name, stored) != stored:
            raise StoreError(f"Two objects of one {self.stage} result are called {stored.name!r}.")
        return stored

    def commit(self, **facts: object) -> Manifest:
        """Complete the result. If another run completed it first, return that one and delete our objects."""
        manifest = Manifest(
            stage=self.stage,
            key=self.key,
            inputs=self.inputs,
            objects=tuple(sorted(self._objects.values(), key=lambda stored: stored.name)),
            facts=facts,
        )
        name, data = manifest_name(self.stage, self.key), canonical_json(manifest.model_dump(mode="json"))
        won = self.store.swap(name, data, self.replaces) if self.replaces else self.store.create(name, data)
        if not won:
            winner = load_manifest(self.store, self.stage, self.key)
            if winner is None:
                raise StoreError(
                    "The manifest that this result was to replace is gone.",
                    where=f"{self.store.url}/{name}",
                    remedy="Run the same command again.",
                )
            manifest = winner[0]
        else:
            # As other readers get it: with the keys in order.
            manifest = Manifest.model_validate_json(data)
        self._drop_all_but(manifest)
        return manifest

    # Parts: a stage that fans out completes each part by the same rule.

    def commit_part(self, stored: StoredObject) -> StoredObject:
        """Record one part (a shard) as complete. If two runs do so, the first one counts."""
        name = self._part_name(stored.name)
        data = canonical_json(stored.model_dump(mode="json"))
        if self.store.create(name, data):
            return stored
        return StoredObject.model_validate_json(self.store.get(name))

    def committed_part(self, name: str) -> StoredObject | None:
        """Return a part that is complete and whose object is there in full, or None.

        A part whose object is gone or altered is forgotten, so that it is made again.
        """
        found = self.store.get_tagged(self._part_name(name))
        if found is None:
            return None
        stored = StoredObject.model_validate_json(found[0])
        if not stored.problem(self.store):
            return stored
        self.store.delete([self._part_name(name)])
        return None

    # Work: what an unfinished stage needs to go on, kept as atomic objects until the commit.

    def keep(self, name: str, data: bytes) -> None:
        """Keep a piece of unfinished work, replacing the former one of that name."""
        self.store.put(f"{self.folder}/work/{name}", data)

    def kept(self, name: str) -> bytes | None:
        """Return a piece of unfinished work, or None."""
        found = self.store.get_tagged(f"{self.folder}/work/{name}")
        return None if found is None else found[0]

    def forget(self) -> None:
        """Delete parts and unfinished work, so that the stage starts from the beginning."""
        for prefix in ("parts", "work"):
            self.store.delete(self.store.list(f"{self.folder}/{prefix}/"))

    def _describe(self, name: str, size_bytes: int, sha256: str, num_records: int) -> StoredObject:
        location = f"{self.folder}/{sha256[:16]}/{name}"
        return StoredObject(
            name=name, location=location, size_bytes=size_bytes, sha256=sha256, num_records=num_records
        )

    def _part_name(self, name: str) -> str:
        return f"{self.folder}/parts/{name}.json"

    def _drop_all_but(self, manifest: Manifest) -> None:
        """After a commit: remove unfinished work, and those of our objects that the result does not use."""
        used = {stored.location for stored in manifest.objects}
        self.store.delete(o.location for o in self._objects.values() if o.location not in used)
        self.forget()
