"""The parts that ingest is made of: chunks of examined pictures, kept in the store for later ingests too.

    parts/ingest/GROUP/…/NAME.npz   examined pictures (tasks/ingest/examined.py)
    parts/ingest/GROUP/NAME.json    a Part: they are complete, and the source did not change meanwhile
    parts/uses/KEY.json             the objects that the result of ingest with this key was made of

GROUP is a digest of all that shapes an examined picture beside its content: image size, fit, kind of source,
code and libraries. Within a group, a picture that a part holds is not decoded again, whatever other pictures
came or went. A part is used only while its object has the SHA-256 that was recorded; `hemaflow gc` removes
the parts that no result uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import KeyInputs, StoredObject
from hemaflow.infra.settings import current_settings
from hemaflow.infra.store.base import Store, file_sha256, in_parallel
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.ingest.config import IngestConfig, ResolvedIngestConfig
from hemaflow.tasks.ingest.examined import IDENTITY_BYTES, examine, save_examined
from hemaflow.tasks.ingest.reference_set import open_reference
from hemaflow.tasks.sources.base import Source
from hemaflow.tasks.sources.registry import open_source

FOLDER, USES = "parts/", "parts/uses/"
CHUNK_BYTES = 64 << 20
"""Size limit of the pixels of a chunk, which a process holds in memory."""
_BETWEEN_NAMES = "\0"


@dataclass(frozen=True)
class Chunk:
    """Pictures that one process examines.

    Attributes:
        group: The group that the part belongs to.
        of_reference: Whether they are of the reference set.
        names: Their names in the source, as one text: a list of them would be costly to pass on.
        identities: What identifies their contents, IDENTITY_BYTES each.
        source_sha256: The content digest that the source must have on the machine that examines them; empty
            where that is this machine.
    """

    group: str
    of_reference: bool
    names: str
    identities: bytes
    source_sha256: str

    @property
    def name(self) -> str:
        """What the part is called: it follows from the content of the pictures."""
        return hashlib.sha256(self.group.encode() + self.identities).hexdigest()[:32] + ".npz"

    @property
    def refs(self) -> list[str]:
        """The names of the pictures."""
        return self.names.split(_BETWEEN_NAMES)

    @property
    def contents(self) -> NDArray[np.uint8]:
        """What identifies the contents of the pictures, uint8[N, IDENTITY_BYTES]."""
        return np.frombuffer(self.identities, np.uint8).reshape(-1, IDENTITY_BYTES)


class Part(BaseModel):
    """Examined pictures in the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stored: StoredObject
    identities: str
    """What identifies their contents, 2 × IDENTITY_BYTES hexadecimal digits each."""

    @classmethod
    def of(cls, stored: StoredObject, contents: NDArray[np.uint8]) -> Part:
        """Return the part with that object, whose pictures have these contents: uint8[N, IDENTITY_BYTES]."""
        return cls(stored=stored, identities=contents.tobytes().hex())

    @property
    def contents(self) -> NDArray[np.uint8]:
        """What identifies their contents, uint8[N, IDENTITY_BYTES]."""
        return np.frombuffer(bytes.fromhex(self.identities), np.uint8).reshape(-1, IDENTITY_BYTES)


def group_of(source: Source, config: IngestConfig, inputs: KeyInputs) -> str:
    """Return the group of the parts that come of a source.

    Args:
        source: The source.
        config: Gives image size and fit.
        inputs: What the key of the ingest is made of: gives code and libraries.
    """
    shaping = {"image_size_pixels": config.image_size_pixels, "fit": config.fit, "source": source.kind}
    return KeyInputs(
        stage="ingest", config=shaping, parents={}, code=inputs.code, libraries=inputs.libraries
    ).key


def images_per_chunk(size_pixels: int) -> int:
    """Return how many images of S × S pixels are examined as one piece of work."""
    return max(1, min(current_settings().chunk_images, CHUNK_BYTES // (3 * size_pixels**2)))


def chunks_of(
    refs: Sequence[str],
    identities: NDArray[np.uint8],
    places: NDArray[np.intp],
    config: ResolvedIngestConfig,
    draft: Draft,
    group: str,
    of_reference: bool,
) -> list[Chunk]:
    """Divide pictures into chunks.

    Args:
        refs: The names of the N pictures of a source.
        identities: What identifies their contents, uint8[N, IDENTITY_BYTES].
        places: Those that are to be examined.
        config: Gives the image size.
        draft: The ingest.
        group: The group of the parts.
        of_reference: Whether they are of the reference set.
    """
    num, source_sha256 = images_per_chunk(config.image_size_pixels), ""
    if current_settings().cluster:
        own = draft.inputs.parents.get("source", "")
        source_sha256 = config.reference_sha256 if of_reference else own
    return [
        Chunk(
            group,
            of_reference,
            _BETWEEN_NAMES.join(refs[place] for place in of_chunk),
            identities[of_chunk].tobytes(),
            source_sha256,
        )
        for of_chunk in (places[start : start + num] for start in range(0, len(places), num))
    ]


def write_part(
    source: Source, chunk: Chunk, config: IngestConfig, draft: Draft, num_threads: int
) -> StoredObject:
    """Examine a chunk and commit the part for this ingest; return it unchanged where it is complete."""
    complete = draft.committed_part(chunk.name)
    if complete is not None:
        return complete
    refs = chunk.refs
    examined = examine(source, refs, config.image_size_pixels, config.fit, num_threads)
    with scratch_folder() as folder:
        path = folder / chunk.name
        save_examined(path, chunk.contents, examined)
        return draft.commit_part(_put(draft.store, chunk, path, len(refs)))


def _put(store: Store, chunk: Chunk, path: Path, num_records: int) -> StoredObject:
    sha256 = file_sha256(path)
    location = f"{_folder(chunk.group)}/{sha256[:16]}/{chunk.name}"
    store.put_file(location, path, sha256)
    size = path.stat().st_size
    return StoredObject(
        name=chunk.name, location=location, size_bytes=size, sha256=sha256, num_records=num_records
    )


def shared_parts(store: Store, group: str) -> list[Part]:
    """Return the parts of a group that any ingest may use."""
    names = [name for name in store.list(f"{_folder(group)}/") if name.endswith(".json")]
    found = in_parallel(store.get_tagged, names)
    parts: list[Part] = []
    for record in found:
        if record is not None:  # removed while we look
            try:
                parts.append(Part.model_validate_json(record[0]))
            except ValidationError:  # of another version: its pictures are examined again
                continue
    return parts


def share(draft: Draft, parts: Iterable[Part]) -> None:
    """Let other ingests use the parts of this one. The source did not change since its key was made."""
    used = {_record(part): part.model_dump_json().encode() for part in parts}
    in_parallel(lambda name: draft.store.create(name, used[name]), used)
    locations = [part.stored.location for part in parts]
    draft.store.put(f"{USES}{draft.key}.json", json.dumps(sorted([*used, *locations])).encode())


def _folder(group: str) -> str:
    return f"{FOLDER}ingest/{group}"


def _record(part: Part) -> str:
    return f"{part.stored.location.rsplit('/', 2)[0]}/{part.stored.name.removesuffix('.npz')}.json"


class OpenedSource:
    """The source whose chunks this process examines, kept open from one chunk to the next."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._opened: tuple[str, bool] | None = None

    def of(self, chunk: Chunk, parents: Parents, config: IngestConfig, key: str) -> Source | None:
        """Return the source of a chunk of the ingest with this key; None where this machine has another one.

        Raises:
            DataError: There is none.
        """
        if self._opened != (key, chunk.of_reference):
            if self._source is not None:
                self._source.close()
            settings, self._source, self._opened = current_settings(), None, None
            source = (
                open_reference(config.reference, parents.store, settings)
                if chunk.of_reference
                else open_source(parents.data, settings)
            )
            if chunk.source_sha256 in ("", source.content_digest()):
                self._source = source
            self._opened = key, chunk.of_reference
        return self._source
