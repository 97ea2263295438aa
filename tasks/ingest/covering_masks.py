"""Masks below which near duplicates agree: the combinatorics of the search for near duplicates.

Covering locality-sensitive hashing (Pagh, "CoverLSH: Locality-sensitive hashing without false negatives",
SODA 2016, arXiv:1507.03225). The 256 bits of a hash are dealt to parts, and each part has a radius. Two
hashes that differ in at most max_bits bits differ, in one part at least, in at most the radius of that part
(pigeonhole). Such two hashes agree below one of the masks of the part.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 256
WORD_BITS = 64
MIN_PARTS = HASH_BITS // WORD_BITS


class Part(NamedTuple):
    """Some of the bits of the hashes: at most 64."""

    num_bits: int
    radius: int
    """Number of bits in which two hashes may differ and agree below a mask."""

    @property
    def num_masks(self) -> int:
        """Number of masks."""
        return (2 << self.radius) - 1


def divided(num_parts: int, max_bits: int) -> list[Part]:
    """Divide the bits among MIN_PARTS parts or more, and radii such that max_bits is within one of them.

    If two hashes differ in more bits than the radius in each part, they differ in at least the sum of all
    (radius + 1): this sum is greater than max_bits.
    """
    total = max(max_bits + 1, num_parts)
    return [
        Part(_share(HASH_BITS, num_parts, place), _share(total, num_parts, place) - 1)
        for place in range(num_parts)
    ]


def _share(total: int, num_parts: int, place: int) -> int:
    return total // num_parts + (place < total % num_parts)


@lru_cache
def masks(part: Part) -> NDArray[np.uint64]:
    """Return the masks of a part, uint64[num_masks]: for any `radius` bits, one mask has none of them.

    Each bit is given a nonzero vector of radius + 1 binary digits. For each nonzero vector v there is a mask:
    the bits whose vectors have an odd product with v. The vectors of `radius` bits do not span the space, so
    that some v is orthogonal to all of them (Pagh 2016).

    Each bit in turn gets the vector with which the fewest random hashes agree: a mask of n bits lets a share
    of 2^-n agree, so that the bit goes to the masks that have few.
    """
    vectors = np.arange(1, part.num_masks + 1)
    is_odd = np.bitwise_count(vectors[:, None] & vectors) % 2
    below, num_bits = np.zeros(part.num_masks, np.uint64), np.zeros(part.num_masks, np.int64)
    for bit in range(part.num_bits):
        in_masks = is_odd[np.argmax(is_odd @ 0.5**num_bits)]
        below |= in_masks.astype(np.uint64) << np.uint64(bit)
        num_bits += in_masks
    return below
