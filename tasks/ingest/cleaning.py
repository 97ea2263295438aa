"""Cleaning: what of a source is not fit to learn from, each finding listed with its items and its reason.

Works on the hashes of the pictures, never on the pictures: exact copies share the SHA-256 of their pixels,
near copies have perceptual hashes a few bits apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.facts import Split
from hemaflow.tasks.sources.base import Finding

HASH_SIZE = 16
"""Side of the perceptual hash: 16 × 16 = 256 bits (imagehash.phash)."""
BLOCK_ROWS = 512
"""Hashes compared with all others at once; bounds the memory of the comparison."""


class Hashed(NamedTuple):
    """One readable picture: where it is, its class and split, and its hashes."""

    ref: str
    class_name: str
    split: Split | Literal[""]
    """The split that it is in already; "" where it is to be divided."""
    sha256: str
    perceptual: NDArray[np.uint64]
    """uint64[4]."""


class Cleaned(NamedTuple):
    """What is left, in order, with the group of each picture, and what was found."""

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
    """Drop contaminants, contradictions and copies; group what is nearly the same.

    Args:
        pictures: The readable pictures, in an order of their own.
        contaminant_copies: From how many identical copies on a picture is taken for no cell at all.
        near_duplicate_bits: Up to how many differing bits two perceptual hashes are taken for one picture.
        reference: Pictures that stay as they are: whatever is one of them, or nearly, or nearly one that
            nearly is, is dropped.
    """
    findings: list[Finding] = []
    referred = {picture.sha256: picture for picture in reference}
    copies: dict[str, list[Hashed]] = defaultdict(list)
    for picture in pictures:
        copies[picture.sha256].append(picture)
    kept: list[Hashed] = []
    for same in copies.values():
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
            # A copy in the test split stays there, so that nothing of test is learnt.
            first = max(same, key=lambda picture: ("", "train", "val", "test").index(picture.split))
            kept.append(first)
            if len(same) > 1:
                others = [picture.ref for picture in same if picture is not first]
                reason = f"the same pixels as {first.ref}"
                findings.append(Finding("exact-duplicate", others, f"kept {first.ref} only", reason))
    groups = near_groups(
        np.array([picture.perceptual for picture in (*kept, *reference)]), near_duplicate_bits
    )
    members: dict[int, list[Hashed]] = defaultdict(list)
    for picture, group in zip(kept, groups, strict=False):  # those of the reference come after
        members[group].append(picture)
    nearest = dict(zip(groups[len(kept) :], reference, strict=True))
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


def near_groups(hashes: NDArray[np.uint64], max_bits: int) -> list[int]:
    """Return a group number for each of uint64[N, 4]: connected where hashes differ in `max_bits` at most."""
    parent = list(range(len(hashes)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for start in range(0, len(hashes), BLOCK_ROWS):
        block = hashes[start : start + BLOCK_ROWS]
        rest = hashes[start:]
        distance = np.zeros((len(block), len(rest)), np.uint16)
        for word in range(hashes.shape[1]):
            distance += np.bitwise_count(block[:, None, word] ^ rest[None, :, word])
        for row, column in zip(*np.nonzero(distance <= max_bits), strict=True):
            if row < column:
                one, other = root(start + int(row)), root(start + int(column))
                parent[max(one, other)] = min(one, other)
    return [root(node) for node in range(len(hashes))]
