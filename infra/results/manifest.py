"""The resume record: what a stage made, and from what.

A manifest lists the objects of one stage result with their sizes and SHA-256, the facts that later stages
need, and the inputs that its key was made of. It is written last, and only if there is none: its existence
means that the stage is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hemaflow.infra.errors import ObjectMissing, StoreError
from hemaflow.infra.store.base import Store, in_parallel

FORMAT = 1


class StoredObject(BaseModel):
    """One object of a stage result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="What the stage calls it, e.g. train-00003-of-00024.tfrecord.")
    location: str = Field(description="Its name in the store.")
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    num_records: int = Field(default=0, ge=0)

    def problem(self, store: Store) -> str:
        """Return what is wrong with the stored object; "" if it is as recorded."""
        stat = store.stat(self.location)
        if stat is None:
            return f"{self.name} is missing"
        if stat.size_bytes != self.size_bytes:
            return f"{self.name} has {stat.size_bytes} bytes instead of {self.size_bytes}"
        return "" if stat.sha256 == self.sha256 else f"{self.name} was altered"


class KeyInputs(BaseModel):
    """All inputs of a stage key, stored in full so that two keys can be compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    config: dict[str, Any]
    parents: dict[str, str] = Field(
        description="Digest of each parent's manifest; a source's content digest."
    )
    code: dict[str, dict[str, str]] = Field(description="File → definition → SHA-256 of its code.")
    libraries: dict[str, str] = Field(description="Distribution → version.")
    names: tuple[str, ...] = Field(
        default=(), description="What rows of tables are named by beside the config: the kind of a source."
    )

    @cached_property
    def key(self) -> str:
        """The stage key: SHA-256 of the canonical JSON of all the above."""
        return digest(self.model_dump(mode="json", exclude=set() if self.names else {"names"}))


class Manifest(BaseModel):
    """A complete stage result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    stage: str
    key: str
    inputs: KeyInputs
    objects: tuple[StoredObject, ...]
    facts: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: what the objects are called, what is in them, and the facts.

        Children are keyed by this and not by `key`: a stage that comes out the same after an edit
        lets everything after it be reused.
        """
        objects = [[o.name, o.size_bytes, o.sha256, o.num_records] for o in self.objects]
        return digest({"stage": self.stage, "objects": sorted(objects), "facts": self.facts})

    def object(self, name: str) -> StoredObject:
        """Return the object of that name. Raises ObjectMissing."""
        for stored in self.objects:
            if stored.name == name:
                return stored
        raise ObjectMissing(
            f"The result of {self.stage} holds no {name!r}.",
            received=", ".join(stored.name for stored in self.objects),
            where=f"stages/{self.stage}/{self.key}",
            remedy=f"Run with --from {self.stage} to build it again.",
        )

    def excerpt(self, objects: Iterable[str], facts: Iterable[str]) -> Manifest:
        """Return the manifest with some objects and facts only: its digest does not depend on the others.

        Args:
            objects: The names of the objects to keep; what is not there is left out.
            facts: The names of the facts to keep, likewise.
        """
        kept = set(objects)
        return Manifest(
            format=self.format,
            stage=self.stage,
            key=self.key,
            inputs=self.inputs,
            objects=tuple(stored for stored in self.objects if stored.name in kept),
            facts={name: self.facts[name] for name in facts if name in self.facts},
        )

    def matching(self, prefix: str) -> tuple[StoredObject, ...]:
        """Return the objects whose names start with `prefix`, in the order of their names."""
        return tuple(sorted((o for o in self.objects if o.name.startswith(prefix)), key=lambda o: o.name))

    def problems(self, store: Store) -> dict[str, str]:
        """Return the names of the objects that are not as recorded, each with what is wrong with it."""
        found = in_parallel(lambda stored: stored.problem(store), self.objects)
        named = zip((stored.name for stored in self.objects), found, strict=True)
        return {name: problem for name, problem in named if problem}

    def path(self, store: Store, name: str) -> Path:
        """Return a local, read-only file with the bytes of the object of that name, checked.

        Raises:
            ObjectMissing: It is not there.
            ObjectAltered: Its bytes are others.
        """
        stored = self.object(name)
        return store.path(stored.location, stored.sha256)

    def read(self, store: Store, name: str) -> bytes:
        """Return the bytes of the object of that name, checked. Raises ObjectMissing, ObjectAltered."""
        stored = self.object(name)
        data = store.get(stored.location)
        if hashlib.sha256(data).hexdigest() != stored.sha256:
            raise store.altered(stored.location, stored.sha256)
        return data


def manifest_name(stage: str, key: str) -> str:
    """Return where in the store the manifest of a stage result is."""
    return f"stages/{stage}/{key}/manifest.json"


def load_manifest(store: Store, stage: str, key: str) -> tuple[Manifest, str] | None:
    """Return the manifest of a stage result and its entity tag, or None where it is not complete."""
    name = manifest_name(stage, key)
    found = store.get_tagged(name)
    if found is None:
        return None
    data, tag = found
    try:
        return Manifest.model_validate_json(data), tag
    except ValidationError as error:
        raise StoreError(
            "A manifest cannot be read.",
            expected=f"a manifest of format {FORMAT}",
            received=f"{error.error_count()} errors, the first: {error.errors()[0]['msg']}",
            where=f"{store.url}/{name}",
            remedy="Remove that object to have the stage computed again, or use the hemaflow that wrote it.",
        ) from error


def canonical_json(value: object) -> bytes:
    """Return the canonical JSON of a value: keys sorted, no spaces, UTF-8. NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Mapping[str, object]) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
