"""Brings the examined pictures of a source together: those in parts of the store, others examined here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import ObjectAltered, ObjectMissing
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import StoredObject
from hemaflow.infra.settings import current_settings
from hemaflow.tasks.ingest.cleaning import Hashed
from hemaflow.tasks.ingest.config import ResolvedIngestConfig
from hemaflow.tasks.ingest.examined import (
    IDENTITY_BYTES,
    Examined,
    examine,
    load_examined,
    load_identities,
)
from hemaflow.tasks.ingest.fitted import FittedPictures
from hemaflow.tasks.ingest.parts import (
    Chunk,
    Part,
    chunks_of,
    group_of,
    images_per_chunk,
    shared_parts,
    write_part,
)
from hemaflow.tasks.sources.base import Finding, Item, Source
from hemaflow.tasks.sources.images import Note

Numbers: TypeAlias = NDArray[np.intp]
_IDENTITY = np.dtype(f"V{IDENTITY_BYTES}")


class Gathered(NamedTuple):
    """The examined pictures of a source."""

    hashed: list[Hashed]
    """Those that can be read, in the order of the source."""
    findings: list[Finding]
    """What is unusual about single pictures, or why they cannot be read."""
    parts: list[Part]
    """The parts that they are from."""


class _Distinct(NamedTuple):
    """The N items of a source by their contents: pictures that are the same file are examined once."""

    keys: NDArray[np.void]
    """Each content once, in order: V32[U]."""
    first: Numbers
    """The first item of each content, intp[U]."""
    of_item: Numbers
    """The content of each item, intp[N] in 0..U−1."""

    def find(self, identities: NDArray[np.uint8]) -> tuple[Numbers, Numbers]:
        """Return which of the identities, uint8[M, 32], are among the contents: their rows and contents."""
        wanted = _as_keys(identities)
        if not len(self.keys):
            return np.zeros(0, np.intp), np.zeros(0, np.intp)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        rows = np.flatnonzero(self.keys[places] == wanted)
        return rows, places[rows]


def _distinct(identities: NDArray[np.uint8]) -> _Distinct:
    return _Distinct(*np.unique(_as_keys(identities), return_index=True, return_inverse=True))


def _as_keys(identities: NDArray[np.uint8]) -> NDArray[np.void]:
    return np.ascontiguousarray(identities).view(_IDENTITY).reshape(-1)


def missing_chunks(
    source: Source, items: Sequence[Item], config: ResolvedIngestConfig, draft: Draft, of_reference: bool
) -> list[Chunk]:
    """Return the chunks of pictures that no part in the store holds; none where a source needs no parts."""
    if not source.is_random_access:
        return []
    refs = [item.ref for item in items]
    identities = source.identities(refs)
    distinct, group = _distinct(identities), group_of(source, config, draft.inputs)
    is_missing = np.ones(len(distinct.keys), np.bool_)
    for part in shared_parts(draft.store, group):
        is_missing[distinct.find(part.contents)[1]] = False
    places = np.sort(distinct.first[is_missing])
    return chunks_of(refs, identities, places, config, draft, group, of_reference)


def gather(
    source: Source,
    items: Sequence[Item],
    config: ResolvedIngestConfig,
    fitted: FittedPictures,
    draft: Draft,
    given: Sequence[StoredObject],
    of_reference: bool,
) -> Gathered:
    """Return the examined pictures of a source; examines here what no part holds.

    Args:
        source: The source.
        items: Its pictures.
        config: Gives image size and fit.
        fitted: Receives the pixels of those that can be read.
        draft: The ingest.
        given: Parts of this ingest that are complete.
        of_reference: Whether the source is the reference set.
    """
    refs, num_threads = [item.ref for item in items], current_settings().workers
    if not source.is_random_access:
        places = np.arange(len(refs))
        made = _Collected(_Distinct(np.zeros(0, _IDENTITY), places, places), refs, fitted, draft)
        num = images_per_chunk(config.image_size_pixels)
        for numbers in (places[start : start + num] for start in range(0, len(refs), num)):
            of_chunk = [refs[number] for number in numbers]
            examined = examine(source, of_chunk, config.image_size_pixels, config.fit, num_threads)
            made.take(np.arange(len(numbers)), numbers, examined)
        return Gathered(*made.listed(items), [])
    identities, group = source.identities(refs), group_of(source, config, draft.inputs)
    made = _Collected(_distinct(identities), refs, fitted, draft)
    parts: list[Part] = []
    for stored in given:
        path = draft.store.path(stored.location, stored.sha256)
        parts += made.take_part(Part.of(stored, load_identities(path)), path)
    for part in shared_parts(draft.store, group):
        with suppress(ObjectMissing, ObjectAltered):  # its pictures are examined again
            parts += made.take_part(part, only_readable=True)
    for chunk in chunks_of(refs, identities, made.missing(), config, draft, group, of_reference):
        stored = write_part(source, chunk, config, draft, num_threads)
        parts += made.take_part(Part.of(stored, chunk.contents))
    return Gathered(*made.listed(items), parts)


class _Collected:
    """What is known of the distinct pictures of a source so far."""

    def __init__(
        self, distinct: _Distinct, refs: Sequence[str], fitted: FittedPictures, draft: Draft
    ) -> None:
        num = len(distinct.first)
        self._distinct, self._refs, self._fitted, self._draft = distinct, refs, fitted, draft
        self._is_done = np.zeros(num, np.bool_)
        self._is_readable = np.zeros(num, np.bool_)
        self._sha256 = np.zeros((num, 32), np.uint8)
        self._perceptual = np.zeros((num, 4), np.uint64)
        self._notes: dict[int, tuple[Note, ...]] = {}

    def missing(self) -> Numbers:
        """Return the first item of each picture that is not known yet, in the order of the source."""
        return np.sort(self._distinct.first[~self._is_done])

    def take_part(self, part: Part, path: Path | None = None, *, only_readable: bool = False) -> list[Part]:
        """Take what is not known yet from a part; return the part if it held any.

        Args:
            part: The part.
            path: A local file of it, which was checked; fetched and checked where None.
            only_readable: Leave the others: it may have been the disk or the network that failed.

        Raises:
            ObjectMissing: Its object is not there.
            ObjectAltered: The object's bytes are others.
        """
        rows, numbers = self._distinct.find(part.contents)
        fresh = ~self._is_done[numbers]
        if not fresh.any():
            return []
        stored = part.stored
        examined = load_examined(path or self._draft.store.path(stored.location, stored.sha256))
        if only_readable:
            fresh &= examined.is_readable[rows]
        self.take(rows[fresh], numbers[fresh], examined)
        return [part] if fresh.any() else []

    def take(self, rows: Numbers, numbers: Numbers, examined: Examined) -> None:
        """Take rows of examined pictures; `numbers` says which of the distinct ones each is."""
        self._is_done[numbers] = True
        self._is_readable[numbers] = examined.is_readable[rows]
        self._sha256[numbers] = examined.sha256[rows]
        self._perceptual[numbers] = examined.perceptual[rows]
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
            if row in examined.notes:
                self._notes[number] = examined.notes[row]
            if examined.is_readable[row]:
                self._fitted.add(self._refs[self._distinct.first[number]], examined.pixels[row])
        self._draft.progress(int(self._is_done.sum()), len(self._is_done), "reading images")

    def listed(self, items: Sequence[Item]) -> tuple[list[Hashed], list[Finding]]:
        """Return the hashes of all that can be read, and the findings, in the order of the items."""
        hashed: list[Hashed] = []
        noted: dict[Note, list[str]] = defaultdict(list)
        for place, (item, number) in enumerate(zip(items, self._distinct.of_item.tolist(), strict=True)):
            for note in self._notes.get(number, ()):
                noted[note].append(item.ref)
            if not self._is_readable[number]:
                continue
            first = int(self._distinct.first[number])
            if first != place:
                self._fitted.add_copy(item.ref, self._refs[first])
            sha256 = self._sha256[number].tobytes().hex()
            hashed.append(Hashed(item.ref, item.class_name, item.split, sha256, self._perceptual[number]))
        return hashed, [Finding(note.kind, refs, note.action, note.reason) for note, refs in noted.items()]
