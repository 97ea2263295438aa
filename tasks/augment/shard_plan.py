"""The shard plan: which images of the training split go into which shard. Pure arithmetic, no TensorFlow.

A shard holds neighbouring rows of the index's training split with all their copies. The plan follows from
counts and sizes alone; it does not depend on which process writes a shard, when, or with how many others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from hemaflow.tasks.records.schema import shard_name


@dataclass(frozen=True)
class Shard:
    """One shard of the training set.

    Attributes:
        index: Its place among the shards, from 0.
        num_shards: The number of shards.
        first: Its first row, counted within the training split.
        num_images: The number of its rows; each row gives as many records as the config sets.
    """

    index: int
    num_shards: int
    first: int
    num_images: int

    @property
    def name(self) -> str:
        """Return e.g. `train-00003-of-00024.tfrecord`."""
        return shard_name("train", self.index, self.num_shards)


class Span(NamedTuple):
    """Consecutive records of one file, of several files that are read in sequence."""

    file: int
    skip: int
    take: int


def plan_shards(num_images: int, image_bytes: int, shard_bytes: int) -> list[Shard]:
    """Divide images among shards of at most `shard_bytes`, as evenly as whole images allow.

    Args:
        num_images: Rows of the training split.
        image_bytes: Size of one image in a shard, all its copies together.
        shard_bytes: Largest size of a shard; an image that is larger gets a shard of its own.

    Returns:
        The shards in order. Every row is in exactly one shard; their sizes differ by at most one image.
    """
    most = max(1, shard_bytes // image_bytes)
    num_shards = -(-num_images // most)
    bounds = [index * num_images // num_shards for index in range(num_shards + 1)] if num_shards else [0]
    return [
        Shard(index, num_shards, first, end - first) for index, (first, end) in enumerate(pairwise(bounds))
    ]


def spans(file_sizes: Sequence[int], first: int, num: int) -> list[Span]:
    """Return where records first..first+num-1 are, in files that hold `file_sizes` records each."""
    found, start, end = [], 0, first + num
    for file, size in enumerate(file_sizes):
        skip, stop = max(first - start, 0), min(end - start, size)
        if skip < stop:
            found.append(Span(file, skip, stop - skip))
        start += size
    return found
