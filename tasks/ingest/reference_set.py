"""The reference set: a fixed test split, which stays the same as new data come in.

Reads a data source as for --data, or the test split of a complete result of ingest in the same store
(`ingest:KEY`). Two models can be compared only on the same pictures.

Guarantees: a reference set is identified by its content (`reference_sha256`), not by its path. Its pictures
have names that no picture of a source can have, and the same names whether they come from the source or from
a result that was made with it. Apart from the names, memory does not grow with the number of images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.facts import IngestFacts
from hemaflow.tasks.records.index import Index
from hemaflow.tasks.records.schema import parse
from hemaflow.tasks.records.tfrecord import Place, record_places
from hemaflow.tasks.sources.base import Item, Scan, Source
from hemaflow.tasks.sources.images import Decoded
from hemaflow.tasks.sources.registry import open_source, source_names

RESULT = "ingest:"
"""Prefix of a reference that is a result of ingest."""
PREFIX = "reference://"
"""Prefix of the names of reference pictures. A relative path holds no double slash."""


def check_reference(reference: str) -> str:
    """Return the reference where its form is valid. Raises ValueError."""
    if reference.startswith(RESULT) and not re.fullmatch("[0-9a-f]{64}", reference.removeprefix(RESULT)):
        raise ValueError(
            f"Expected ingest: and the whole key of a result, 64 letters (hemaflow show RUN --json). "
            f"Received: {reference}"
        )
    return reference


def result_key(reference: str) -> str:
    """Return the key of the result of ingest that a reference names; "" for a data source."""
    return reference.removeprefix(RESULT) if reference.startswith(RESULT) else ""


def reference_sha256(reference: str, settings: Settings) -> str:
    """Return a digest of the content of a reference: the key of a result, or the digest of a source.

    Raises:
        DataError: The reference cannot be opened.
    """
    key = result_key(reference)
    if key:
        return key
    try:
        with open_source(reference, settings) as source:
            return source.content_digest()
    except DataError as error:
        raise DataError(
            f"The reference set cannot be used. {error.what}",
            expected=error.expected,
            received=f"ingest.reference={reference}",
            where=error.where,
            remedy=f"Check the path, or name a result of ingest with {RESULT}KEY.",
        ) from error


def reference_kinds(reference: str, settings: Settings) -> tuple[str, ...]:
    """Return the kind of the data source that a reference is; nothing for a result of ingest, or for none."""
    if not reference or result_key(reference):
        return ()
    with open_source(reference, settings) as source:
        return (source.kind,)


def absolute(reference: str) -> str:
    """Return the reference, or what --data names, with an absolute path where it is a path."""
    path = Path(reference).expanduser()
    is_name = result_key(reference) or reference in source_names()
    return reference if is_name or not path.exists() else str(path.absolute())


def open_reference(reference: str, store: Store, settings: Settings) -> Source:
    """Return the source of the reference pictures; it is empty where `reference` is.

    Raises:
        DataError: There is no such source, or no such result.
    """
    if not reference:
        return NoReference()
    key = result_key(reference)
    return Reference(IngestedTest(store, _ingested(store, key)) if key else open_source(reference, settings))


class NoReference(Source):
    """No pictures."""

    name = ""

    def content_digest(self) -> str:
        """See Source."""
        return ""

    def scan(self) -> Scan:
        """See Source."""
        return Scan([], [], [])

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        raise KeyError(ref)


class Reference(Source):
    """The pictures of a source, all of them `test`, under names that begin with PREFIX."""

    def __init__(self, source: Source) -> None:
        self._source, self.name = source, f"{PREFIX}{source.name}"
        self.is_random_access = source.is_random_access  # type: ignore[misc]
        self.kind = source.kind

    def content_digest(self) -> str:
        """See Source."""
        return self._source.content_digest()

    def scan(self) -> Scan:
        """See Source."""
        scan = self._source.scan()
        items = [Item(PREFIX + item.ref, item.class_name, "test") for item in scan.items]
        findings = [
            finding._replace(items=[PREFIX + item for item in finding.items]) for finding in scan.findings
        ]
        return Scan(scan.classes, items, findings)

    def identities(self, refs: Sequence[str]) -> NDArray[np.uint8]:
        """See Source."""
        return self._source.identities([ref.removeprefix(PREFIX) for ref in refs])

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        return self._source.read(ref.removeprefix(PREFIX))

    def decode(self, ref: str) -> Decoded:
        """See Source."""
        return self._source.decode(ref.removeprefix(PREFIX))

    def close(self) -> None:
        """See Source."""
        self._source.close()


class IngestedTest(Source):
    """The test split of a result of ingest."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store, self._manifest, self.name = store, manifest, f"ingest {manifest.key[:8]}"
        self._facts = IngestFacts.of(manifest)
        self._places: dict[str, Place] = {}

    def content_digest(self) -> str:
        """See Source."""
        return self._manifest.digest

    def scan(self) -> Scan:
        """See Source."""
        classes = self._facts.classes
        index = Index.of(self._store, self._manifest)
        rows = index.places("test").tolist()
        refs = [index.ids[row].removeprefix(PREFIX) for row in rows]
        shards = [self._manifest.path(self._store, o.name) for o in self._manifest.matching("test-")]
        places = (place for shard in shards for place in record_places(shard))
        self._places = dict(zip(refs, places, strict=True))
        labels = index.labels[rows].tolist()
        items = [Item(ref, classes[label], "test") for ref, label in zip(refs, labels, strict=True)]
        if not items:
            raise DataError(
                "The reference set is empty: that result of ingest has no test split.",
                where=f"{self._store.url}/stages/ingest/{self._manifest.key}",
                remedy="Name another result with ingest.reference=ingest:KEY, or a data source.",
            )
        return Scan(classes, items, [])

    def read(self, ref: str) -> NDArray[np.uint8]:
        """See Source."""
        return parse(self._places[ref].read(), self._facts.image_size_pixels).image


def _ingested(store: Store, key: str) -> Manifest:
    found = load_manifest(store, "ingest", key)
    if found is None:
        raise DataError(
            "There is no such reference set in this store.",
            expected="the key of a complete result of ingest",
            received=f"ingest.reference={RESULT}{key}",
            where=f"{store.url}/stages/ingest/{key}",
            remedy="See the keys of a run with: hemaflow show RUN --json",
        )
    return found[0]
