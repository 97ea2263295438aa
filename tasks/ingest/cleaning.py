"""Cleaning: drops pictures that must not be trained on, and lists each with the reason.

Compares hashes, not pictures: exact copies share the SHA-256 of their pixels; the perceptual hashes of near
copies differ in a few bits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.facts import Split
from hemaflow.tasks.ingest.near_duplicates import near_groups
from hemaflow.tasks.sources.base import Finding

HASH_SIZE = 16
"""Side of the perceptual hash: 16 × 16 = 256 bits (imagehash.phash)."""


class Hashed(NamedTuple):
    """A readable picture: its name in the source, class, split and hashes."""

    ref: str
    class_name: str
    split: Split | Literal[""]
    """Its split where that is fixed; "" where ingest divides the pictures."""
    sha256: str
    perceptual: NDArray[np.uint64]
    """uint64[4]."""


class Cleaned(NamedTuple):
    """The pictures that are kept, in order, the group of each, and the findings."""

    kept: list[Hashed]
    groups: list[int]
    findings: list[Finding]


def perceptual_hash(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the 256-bit perceptual hash of uint8[h, w, 3] as uint64[4]."""
    import imagehash
    from PIL import Image

    bits = imagehash.phash(Image.fromarray(pixels), hash_size=HASH_SIZE).hash
    return np.packbits(bits.reshape(-1)).view(np.uint64)


def clean(
    pictures: Sequence[Hashed],
    *,
    contaminant_copies: int,
    near_duplicate_bits: int,
    reference: Sequence[Hashed] = (),
) -> Cleaned:
    """Drop contaminants, contradictions and copies; group near duplicates.

    Args:
        pictures: The readable pictures, in the order of the source.
        contaminant_copies: Number of identical copies from which a picture counts as a contaminant.
        near_duplicate_bits: Largest number of bits in which the perceptual hashes of near duplicates differ.
        reference: The reference set, which is not changed. Drops images that equal, or nearly equal, a
            reference image (transitively).
    """
    findings: list[Finding] = []
    referred = {picture.sha256: picture for picture in reference}
    num_copies = Counter(picture.sha256 for picture in pictures)
    copies: dict[str, list[Hashed]] = defaultdict(list)
    for picture in pictures:
        if num_copies[picture.sha256] > 1:
            copies[picture.sha256].append(picture)
    kept: list[Hashed] = []
    for picture in pictures:
        same = copies.pop(picture.sha256, []) if num_copies[picture.sha256] > 1 else [picture]
        if not same:  # met before
            continue
        refs = [picture.ref for picture in same]
        classes = sorted({picture.class_name for picture in same})
        if same[0].sha256 in referred:
            findings.append(_exact_reference_duplicate(same, referred[same[0].sha256]))
        elif len(same) >= contaminant_copies:
            reason = (
                f"one picture {len(same)} times, as {', '.join(classes)}: no cell is photographed so often"
            )
            findings.append(Finding("contaminant", refs, "dropped all", reason))
        elif len(classes) > 1:
            named = ", ".join(f"{picture.ref} as {picture.class_name}" for picture in same)
            reason = f"the same pixels under several labels: {named}"
            findings.append(Finding("conflicting-label", refs, "dropped all", reason))
        else:
            # The copy in the test split is kept, so that no test picture is trained on.
            first = max(same, key=lambda picture: ("", "train", "val", "test").index(picture.split))
            kept.append(first)
            if len(same) > 1:
                others = [picture.ref for picture in same if picture is not first]
                reason = f"the same pixels as {first.ref}"
                findings.append(Finding("exact-duplicate", others, f"kept {first.ref} only", reason))
    del num_copies
    groups = near_groups(
        np.array([picture.perceptual for picture in (*kept, *reference)]), near_duplicate_bits
    )
    nearest = dict(zip(groups[len(kept) :], reference, strict=True))
    sizes = np.bincount(np.array(groups, np.int64))
    members: dict[int, list[Hashed]] = defaultdict(list)
    for picture, group in zip(kept, groups, strict=False):  # those of the reference come after
        if sizes[group] > 1:
            members[group].append(picture)
    for group, together in members.items():
        if group in nearest:
            reason = (
                f"perceptual hashes at most {near_duplicate_bits} bits from {nearest[group].ref}, or from "
                "one that is"
            )
            refs = [picture.ref for picture in together]
            findings.append(Finding("reference-duplicate", refs, "dropped all", reason))
        elif len(together) > 1:
            splits = sorted({picture.split or "the other folds" for picture in together})
            crossing = f"; the source has them in {' and '.join(splits)}" if len(splits) > 1 else ""
            reason = f"perceptual hashes at most {near_duplicate_bits} bits apart{crossing}"
            action = "kept" if crossing else "kept in one split"
            findings.append(Finding("near-duplicate", [picture.ref for picture in together], action, reason))
    left = [place for place, group in enumerate(groups[: len(kept)]) if group not in nearest]
    return Cleaned([kept[place] for place in left], [groups[place] for place in left], findings)


def _exact_reference_duplicate(same: Sequence[Hashed], of: Hashed) -> Finding:
    others = sorted({picture.class_name for picture in same} - {of.class_name})
    conflict = f", which is {of.class_name} and not {', '.join(others)}" if others else ""
    refs = [picture.ref for picture in same]
    return Finding("reference-duplicate", refs, "dropped all", f"the same pixels as {of.ref}{conflict}")
