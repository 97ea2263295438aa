"""Examined pictures: decoded, fitted, hashed, and judged by what can be seen in each alone.

What comes of a picture follows from its content, the image size and the fit. In a file, the columns
(tasks/records/columns.py) of N pictures are

    identity     uint8[N, 32]        what identifies the content of each (Source.identities)
    pixels       uint8[N, S, S, 3]   zeros where the picture cannot be read
    is_readable  bool[N]
    sha256       uint8[N, 32]        of the pixels
    perceptual   uint64[N, 4]        the perceptual hash (tasks/ingest/cleaning.py)
    note_row     int32[K]            the place of the picture that a note is about
    note_kind, note_action, note_reason  texts
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.ingest.cleaning import perceptual_hash
from hemaflow.tasks.ingest.content import content_notes
from hemaflow.tasks.records.columns import Columns, save_columns
from hemaflow.tasks.sources.base import Source
from hemaflow.tasks.sources.images import Fit, Note, Unreadable, fit

IDENTITY_BYTES = 32


class Examined(NamedTuple):
    """N pictures."""

    pixels: NDArray[np.uint8]
    """uint8[N, S, S, 3]; zeros where the picture cannot be read."""
    is_readable: NDArray[np.bool_]
    """bool[N]."""
    sha256: NDArray[np.uint8]
    """The SHA-256 of the pixels, uint8[N, 32]."""
    perceptual: NDArray[np.uint64]
    """The perceptual hashes, uint64[N, 4]."""
    notes: dict[int, tuple[Note, ...]]
    """Place of a picture → what is unusual about it, or why it cannot be read; most have none."""


def examine(source: Source, refs: Sequence[str], size_pixels: int, method: Fit, num_threads: int) -> Examined:
    """Decode pictures of a source, fit them to S × S pixels, and hash them.

    Args:
        source: Holds the pictures.
        refs: Their names.
        size_pixels: S.
        method: How a picture that is not square becomes square.
        num_threads: Threads that do so at the same time.
    """
    num = len(refs)
    made = Examined(
        np.zeros((num, size_pixels, size_pixels, 3), np.uint8),
        np.zeros(num, np.bool_),
        np.zeros((num, 32), np.uint8),
        np.zeros((num, 4), np.uint64),
        {},
    )

    def one(place: int) -> tuple[Note, ...]:
        try:
            decoded = source.decode(refs[place])
        except Unreadable as error:
            return (Note("unreadable", "dropped", str(error)),)
        made.pixels[place] = fit(decoded.pixels, size_pixels, method)
        made.is_readable[place] = True
        made.sha256[place] = np.frombuffer(hashlib.sha256(made.pixels[place].data).digest(), np.uint8)
        made.perceptual[place] = perceptual_hash(made.pixels[place])
        return *decoded.notes, *content_notes(decoded.pixels)

    with ThreadPoolExecutor(num_threads) as pool:
        made.notes.update((place, notes) for place, notes in enumerate(pool.map(one, range(num))) if notes)
    return made


def save_examined(path: Path, identities: NDArray[np.uint8], examined: Examined) -> None:
    """Write examined pictures to a file.

    Args:
        path: The file.
        identities: What identifies the content of each picture, uint8[N, 32].
        examined: What came of them.
    """
    rows = [row for row, notes in examined.notes.items() for _ in notes]
    notes = [note for notes in examined.notes.values() for note in notes]
    columns = examined._asdict() | {
        "note_row": np.array(rows, np.int32),
        "note_kind": [note.kind for note in notes],
        "note_action": [note.action for note in notes],
        "note_reason": [note.reason for note in notes],
    }
    del columns["notes"]
    save_columns(path, {"identity": identities, **columns})


def load_examined(path: Path) -> Examined:
    """Return the pictures of `save_examined`."""
    columns = Columns(path)
    notes: defaultdict[int, tuple[Note, ...]] = defaultdict(tuple)
    texts = (columns.texts(f"note_{name}") for name in ("kind", "action", "reason"))
    for row, *text in zip(columns.array("note_row").tolist(), *texts, strict=True):
        notes[row] += (Note(*text),)
    return Examined(
        columns.array("pixels").astype(np.uint8, copy=False),
        columns.array("is_readable").astype(np.bool_, copy=False),
        columns.array("sha256").astype(np.uint8, copy=False),
        columns.array("perceptual").astype(np.uint64, copy=False),
        dict(notes),
    )


def load_identities(path: Path) -> NDArray[np.uint8]:
    """Return what identifies the content of the pictures of `save_examined`, uint8[N, 32]."""
    return Columns(path).array("identity").astype(np.uint8, copy=False)
