"""The interface of a data source, and the records that it returns."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.tasks.core.facts import Split
from hemaflow.tasks.sources.images import Decoded, Unreadable


class Finding(NamedTuple):
    """Something unusual in a source, and what was done about it."""

    kind: str
    items: list[str]
    action: str
    reason: str


class Item(NamedTuple):
    """One picture of a source."""

    ref: str
    """Its name in the source, by which it is read."""
    class_name: str
    split: Split | Literal[""]
    """train, val or test where the source has splits, else empty."""
    fold: int | None = None
    """Number of its fold where the source has folds, from 0."""


class Scan(NamedTuple):
    """What a source holds."""

    classes: list[str]
    items: list[Item]
    findings: list[Finding]


class Source(ABC):
    """A source of labelled pictures. Use as a context manager: it may hold files open."""

    form: ClassVar[str] = ""
    """What --data is for this kind of source, in words."""
    names: ClassVar[tuple[str, ...]] = ()
    """What --data is where it is one of a few names; empty for paths and addresses."""
    is_random_access: ClassVar[bool] = False
    """Whether `decode` works without a `scan` before it, so that several processes can share the work."""
    name: str
    """What this source is called in reports and errors."""
    kind: str = ""
    """The name under which its kind is registered; `open_source` sets it. Only `identities` of one kind are
    compared."""

    @classmethod
    def opened(cls, data: str, settings: Settings) -> Source | None:
        """Return the source that `--data` names; None where that is of another kind.

        Every kind that is registered (tasks/sources/registry.py) overrides it.

        Raises:
            DataError: It is of this kind, and cannot be used.
        """
        return None

    @abstractmethod
    def content_digest(self) -> str:
        """Return a SHA-256 that changes with the content. Needs no TensorFlow and bounded memory."""

    @abstractmethod
    def scan(self) -> Scan:
        """List the pictures, in an order that depends on the content alone. Raises DataError.

        Comes before any `read`.
        """

    @abstractmethod
    def read(self, ref: str) -> NDArray[np.uint8]:
        """Return a picture as uint8[h, w, 3] in 0..255. Raises Unreadable. Called from several threads."""

    def decode(self, ref: str) -> Decoded:
        """Return a picture with notes on what is unusual about its file. Raises Unreadable.

        Sources of image files override it; called from several threads.
        """
        return Decoded(self.read(ref))

    def identities(self, refs: Sequence[str]) -> NDArray[np.uint8]:
        """Return what identifies the content of each picture: uint8[len(refs), 32].

        Pictures of one identity decode to the same pixels and notes, in this source and in others of its
        kind; a name is no part of it. Call it once, after `scan`, for all pictures that matter.

        This one decodes every picture. Sources that can tell more cheaply override it.

        Raises:
            DataError: A part of the data cannot be read.
        """
        return as_identities([_decoded_sha256(self, ref) for ref in refs])

    def close(self) -> None:  # noqa: B027 (most sources hold nothing open)
        """Close the files that are open."""

    def __enter__(self) -> Source:
        """Use the source."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files that are open."""
        self.close()


def as_identities(sha256s: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return SHA-256s of 32 bytes as uint8[N, 32]."""
    return np.frombuffer(b"".join(sha256s), np.uint8).reshape(-1, 32)


def _decoded_sha256(source: Source, ref: str) -> bytes:
    try:
        pixels, notes = source.decode(ref)
    except Unreadable as error:
        return hashlib.sha256(f"unreadable {error}".encode()).digest()
    total = hashlib.sha256(f"{pixels.shape} {notes}".encode())
    total.update(np.ascontiguousarray(pixels).data)
    return total.digest()


def require_classes(classes: list[str], name: str, findings: Sequence[Finding] = ()) -> list[str]:
    """Return the classes of a source where there are two at least. Raises DataError.

    Args:
        classes: Their names.
        name: What the source is called.
        findings: What was found in it, which may tell why there are so few.
    """
    if len(classes) >= 2:
        return classes
    links = [finding for finding in findings if finding.kind == "link"]
    because, remedy = "", "Put the images of each class into a folder of its own."
    if links:
        num_links = sum(len(link.items) for link in links)
        because = f"; {num_links} links were left out, such as {links[0].items[0]!r}: {links[0].reason}"
        remedy = "To follow links, set HEMAFLOW_LINKS_TO to the folder that they lead to."
    raise DataError(
        "There is nothing to tell apart." if classes else "There are no images.",
        expected="at least two classes, each a folder with .jpg or .png images (or a label of an .npz)",
        received=(f"one class, {classes[0]!r}" if classes else "none") + because,
        where=name,
        remedy=remedy,
    )
