"""Shards of a store as local files, fetched in the background in the order in which they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hemaflow.infra.results.manifest import StoredObject
from hemaflow.tasks.core.stage import Parents

FETCHED_AT_ONCE = 4
"""Downloads that run in parallel; a shard is about 32 MB."""


class PrefetchedShards:
    """Local files of stored shards: reading begins with the first while the others are fetched.

    Args:
        parents: The results that the shards belong to.
        shards: The shards. The methods take places in this sequence.
    """

    def __init__(self, parents: Parents, shards: Sequence[StoredObject]) -> None:
        self._parents, self._shards = parents, shards
        self._files: dict[int, Future[Path]] = {}

    def __len__(self) -> int:
        """Return how many shards there are."""
        return len(self._shards)

    def fetch(self, order: Iterable[int]) -> None:
        """Begin to fetch, in that order, the shards that are not local yet."""
        wanted = [place for place in order if place not in self._files]
        pool = ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="fetch")
        for place in wanted:
            self._files[place] = pool.submit(self._parents.path, self._shards[place])
        pool.shutdown(wait=False)

    def path(self, place: int) -> Path:
        """Wait for a shard, and return its local file.

        Raises:
            ObjectMissing: The store no longer has it.
            ObjectAltered: Its bytes differ from those that were recorded.
        """
        return self._files[int(place)].result()

    def raise_failure(self) -> None:
        """Raise the error that stopped a fetch, if any: TensorFlow itself reports only that an op failed."""
        for file in self._files.values():
            if file.done() and (failure := file.exception()):
                raise failure
