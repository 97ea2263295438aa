"""Near duplicates: groups perceptual hashes that differ in few bits, exactly, without comparing all pairs.

Compares hashes only where they agree below one of some hundred masks, which all near duplicates do
(tasks/ingest/covering_masks.py): for each mask, sorts the hashes by their masked bits, and compares those
that are equal there.

Cost: near linear for few bits. At 40 bits, the default, it grows like N^1.3 in theory (the exponent of
locality-sensitive hashing, 1 + 40/128). Above about 70 bits, and where many pictures are alike without being
near duplicates, masks save nothing: then all pairs are compared in blocks, N²/2 comparisons. `plan` estimates
both costs from a sample. The groups are the same in any case.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.ingest.covering_masks import HASH_BITS, MIN_PARTS, WORD_BITS, Part, divided, masks

SAMPLE = 1024
"""Number of hashes from whose distances the cost is estimated."""
MAX_RADIUS = 8
"""Largest radius of a part that is tried: 511 masks."""
MASK_NS, HASH_NS, PAIR_NS, BLOCK_PAIR_NS = 100_000, 15, 30, 3
"""Measured time of a mask, of each hash below a mask, of each pair in one bucket, of each pair in blocks."""
LARGE_BUCKET = 64
"""Size of a bucket above which some pairs are linked first, and only what is still apart is compared."""
BLOCK_ROWS, BLOCK_COLUMNS = 16, 32768
"""Number of hashes that are compared with each other at once: they fit the cache of a core."""

Places = NDArray[np.int64]
_LOWER, _UPPER = np.uint64(0x00000000FFFFFFFF), np.uint64(0xFFFFFFFF00000000)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: mixes masked bits into the upper 32 (Knuth, The Art of Computer Programming 3)."""


def near_groups(hashes: NDArray[np.uint64], max_bits: int) -> list[int]:
    """Return the group of each hash: the smallest index in the group.

    Hashes that differ in at most max_bits bits share a group, and so do those that a chain of such pairs
    connects.

    Args:
        hashes: uint64[N, 4], N at most 2^32.
        max_bits: 0..256. Above about 70 the time grows with N² (see the module).
    """
    if not len(hashes):
        return []
    distinct, first, inverse = _distinct(hashes)
    labels = group_distinct(distinct, plan(distinct, max_bits), max_bits)
    smallest = np.full(len(distinct), len(hashes))
    np.minimum.at(smallest, labels, first)
    groups: list[int] = smallest[labels][inverse].tolist()
    return groups


def group_distinct(distinct: NDArray[np.uint64], parts: Sequence[Part], max_bits: int) -> Places:
    """Return the group of each of distinct hashes, int64[N]: the smallest index in the group.

    Args:
        distinct: uint64[N, 4].
        parts: Parts that `divided` returns for max_bits; none to compare all pairs in blocks.
        max_bits: As in near_groups.
    """
    linking = _Linking(distinct, max(len(parts), MIN_PARTS), max_bits)
    if parts:
        linking.link_below_masks(parts)
    else:
        linking.link_in_blocks(np.arange(len(distinct)), len(distinct))
    return linking.labels


def plan(distinct: NDArray[np.uint64], max_bits: int) -> list[Part]:
    """Return the parts whose masks cost least; none where comparing all pairs in blocks costs less."""
    num = len(distinct)
    num_pairs = num * (num - 1) / 2
    best: list[Part] = []
    least = num_pairs * BLOCK_PAIR_NS
    if least < MASK_NS * MIN_PARTS:
        return best
    sample = distinct[:: -(-num // SAMPLE)]
    distance = np.bitwise_count(sample[:, None] ^ sample[None]).sum(axis=2, dtype=np.int64)
    share = np.bincount(distance.ravel(), minlength=HASH_BITS + 1) / distance.size
    # Near duplicates are linked once and skipped from then on.
    share[: max_bits + 1] = 0
    equal_bits = 1 - np.arange(HASH_BITS + 1) / HASH_BITS
    for num_parts in range(MIN_PARTS, max(MIN_PARTS, max_bits + 1) + 1):
        parts = divided(num_parts, max_bits)
        if max(part.radius for part in parts) > MAX_RADIUS:
            continue
        cost = 0.0
        for part in parts:
            agreeing = share @ equal_bits[:, None] ** np.bitwise_count(masks(part))
            cost += part.num_masks * (MASK_NS + num * HASH_NS) + num_pairs * agreeing.sum() * PAIR_NS
        if cost < least:
            best, least = parts, cost
    return best


def _distinct(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], Places, Places]:
    """Return the distinct hashes, the first index of each, and of each hash its place among them."""
    order = np.lexsort(hashes.T)  # stable: of equal hashes, the first index comes first
    ordered = hashes[order]
    is_new = np.ones(len(hashes), bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    inverse = np.empty(len(hashes), np.int64)
    inverse[order] = np.cumsum(is_new) - 1
    return ordered[is_new], order[is_new], inverse


def _dealt(distinct: NDArray[np.uint64], num_parts: int) -> list[NDArray[np.uint64]]:
    """Return the bits of each part, uint64[N]: each gets its share of those that hardly vary."""
    sample = np.unpackbits(distinct[:: -(-len(distinct) // SAMPLE)].view(np.uint8), axis=1)
    order = np.argsort(np.abs(sample.mean(axis=0) - 0.5), kind="stable")
    columns = [np.empty(len(distinct), np.uint64) for _ in range(num_parts)]
    for start in range(0, len(distinct), BLOCK_COLUMNS):
        block = slice(start, start + BLOCK_COLUMNS)
        bits = np.unpackbits(distinct[block].view(np.uint8), axis=1)
        for place, column in enumerate(columns):
            chosen = order[place::num_parts]
            own = np.zeros((len(bits), WORD_BITS), np.uint8)
            own[:, : len(chosen)] = bits[:, chosen]
            column[block] = np.packbits(own, axis=1, bitorder="little").view("<u8")[:, 0]
    return columns


class _Linking:
    """Joins the groups of distinct hashes, pair by pair.

    Args:
        distinct: uint64[N, 4].
        num_parts: Number of parts that their bits are dealt to.
        max_bits: As in near_groups.

    Attributes:
        labels: int64[N], the group of each hash: the smallest place in it.
    """

    def __init__(self, distinct: NDArray[np.uint64], num_parts: int, max_bits: int) -> None:
        self.labels: Places = np.arange(len(distinct))
        self._root = np.arange(len(distinct))
        self._columns = _dealt(distinct, num_parts)
        self._max_bits = max_bits
        # As many parts as show of most pairs that they are no near duplicates: three standard deviations.
        num_bits = HASH_BITS * np.arange(1, num_parts + 1) / num_parts
        telling = num_bits / 2 - 1.5 * np.sqrt(num_bits) >= max_bits
        self._num_telling = int(np.argmax(telling)) + 1 if telling.any() else num_parts

    def link_below_masks(self, parts: Sequence[Part]) -> None:
        """Link all near duplicates."""
        places = np.arange(len(self.labels), dtype=np.uint64)
        for part, column in zip(parts, self._columns, strict=True):
            for mask in masks(part):
                packed = column & mask
                packed *= _MULTIPLIER
                packed &= _UPPER
                packed |= places
                packed.sort()
                self._link_buckets(packed, column, part.radius)

    def link_in_blocks(self, places: Places, num_rows: int) -> None:
        """Compare each of the first num_rows hashes at these places with all that come after it."""
        words = [column[places] for column in self._columns[: self._num_telling]]
        for left in range(0, len(places), BLOCK_COLUMNS):
            right = left + BLOCK_COLUMNS
            for top in range(0, min(num_rows, right), BLOCK_ROWS):
                bottom = min(top + BLOCK_ROWS, num_rows)
                distance = np.zeros((bottom - top, len(words[0][left:right])), np.uint8)
                for word in words:
                    distance += np.bitwise_count(word[top:bottom, None] ^ word[None, left:right])
                # 256 has become 0, which _link corrects.
                near = np.flatnonzero(distance <= min(self._max_bits, 255))
                if len(near):
                    row, column = np.divmod(near, distance.shape[1])
                    self._link(places[row + top], places[column + left])

    def _link_buckets(self, packed: NDArray[np.uint64], column: NDArray[np.uint64], radius: int) -> None:
        """Link the near duplicates that differ in at most `radius` bits of a part and are in one bucket.

        Args:
            packed: uint64[N], sorted: the upper 32 bits are the bucket of a hash, the lower are its place.
            column: uint64[N], the bits of the part.
            radius: That of the part.
        """
        goes_on = np.zeros(len(packed), bool)  # whether the next hash is in the same bucket
        goes_on[:-1] = (packed[1:] ^ packed[:-1]) <= _LOWER
        if ((packed[LARGE_BUCKET:] ^ packed[:-LARGE_BUCKET]) <= _LOWER).any():
            self._link_large(packed, goes_on)
        at, apart = np.flatnonzero(goes_on), 1
        while len(at):
            one = (packed[at] & _LOWER).astype(np.int64)
            other = (packed[at + apart] & _LOWER).astype(np.int64)
            near = np.bitwise_count(column[one] ^ column[other]) <= radius
            self._link(one[near], other[near])
            at = at[goes_on[at + apart]]
            apart += 1

    def _link_large(self, packed: NDArray[np.uint64], goes_on: NDArray[np.bool_]) -> None:
        """Link the near duplicates in large buckets, and cut these out of goes_on.

        Links some pairs first, each hash with the 1st, 2nd, 4th, … after it. That joins most of a dense
        cluster, and leaves few hashes to compare with all others of their bucket.
        """
        sizes = np.diff(np.flatnonzero(~goes_on) + 1, prepend=0)
        is_large = sizes > LARGE_BUCKET
        in_large = np.repeat(is_large, sizes)
        goes_on[in_large] = False
        members, sizes = self._unsettled((packed[in_large] & _LOWER).astype(np.int64), sizes[is_large])
        for power in range(int(sizes.max(initial=0)).bit_length()):
            at = _with_another(sizes, 1 << power)
            self._link(members[at], members[at + (1 << power)])
        members, sizes = self._unsettled(members, sizes)
        for bucket in np.split(members, np.cumsum(sizes)[:-1]) if len(sizes) else ():
            _, group, counts = np.unique(self.labels[bucket], return_inverse=True, return_counts=True)
            in_largest = group == np.argmax(counts)
            ordered = np.concatenate([bucket[~in_largest], bucket[in_largest]])
            self.link_in_blocks(ordered, int(np.count_nonzero(~in_largest)))

    def _unsettled(self, members: Places, sizes: Places) -> tuple[Places, Places]:
        """Leave out buckets that are all of one group; return the members and sizes of the others."""
        if not len(sizes):
            return members, sizes
        labels, starts = self.labels[members], np.cumsum(sizes) - sizes
        is_mixed = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
        return members[np.repeat(is_mixed, sizes)], sizes[is_mixed]

    def _link(self, one: Places, other: Places) -> None:
        """Join the groups of those pairs that are near duplicates."""
        apart = self.labels[one] != self.labels[other]
        one, other = one[apart], other[apart]
        distance = np.zeros(len(one), np.uint16)
        for columns in (self._columns[: self._num_telling], self._columns[self._num_telling :]):
            for column in columns:
                distance += np.bitwise_count(column[one] ^ column[other])
            near = distance <= self._max_bits
            one, other, distance = one[near], other[near], distance[near]
        if len(one):
            self._join(self.labels[one], self.labels[other])

    def _join(self, one: Places, other: Places) -> None:
        """Join groups, given pairs of labels."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        labels, ends = np.unique([one, other], return_inverse=True)
        shape = (len(labels), len(labels))
        edges = coo_array((np.ones(len(one), bool), (ends[0], ends[1])), shape=shape)
        _, component = connected_components(edges, directed=False)
        _, first = np.unique(component, return_index=True)
        self._root[labels] = labels[first[component]]
        self.labels = self._root[self.labels]


def _with_another(sizes: Places, apart: int) -> Places:
    """Return the indices of members whose bucket has another member `apart` members after them."""
    starts, has = np.cumsum(sizes) - sizes, sizes > apart
    counts = sizes[has] - apart
    before = np.cumsum(counts) - counts
    indices: Places = np.arange(counts.sum()) + np.repeat(starts[has] - before, counts)
    return indices
