"""Shards of a store as local files, which arrive in the background in the order in which they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hemaflow.infra.results.manifest import StoredObject
from hemaflow.tasks.core.stage import Parents

FETCHED_AT_ONCE = 4


class ArrivingShards:
    """Local files of stored shards: reading begins with the first while the rest arrive.

    Args:
        parents: What the shards belong to.
        shards: The shards; places in this sequence are what the methods take.
    """

    def __init__(self, parents: Parents, shards: Sequence[StoredObject]) -> None:
        self._parents, self._shards = parents, shards
        self._files: dict[int, Future[Path]] = {}

    def __len__(self) -> int:
        """Return how many shards there are."""
        return len(self._shards)

    def fetch(self, order: Iterable[int]) -> None:
        """Begin to fetch what is not here yet, in that order."""
        wanted = [place for place in order if place not in self._files]
        pool = ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="fetch")
        for place in wanted:
            self._files[place] = pool.submit(self._parents.path, self._shards[place])
        pool.shutdown(wait=False)

    def path(self, place: int) -> Path:
        """Wait for a shard that is being fetched, and return its file.

        Raises:
            ObjectMissing: The store does not have it any more.
            ObjectAltered: Its bytes are not those that were recorded.
        """
        return self._files[int(place)].result()

    def raise_failure(self) -> None:
        """Raise what kept a shard from arriving, if anything did: TensorFlow tells only of a failed op."""
        for file in self._files.values():
            if file.done() and (failure := file.exception()):
                raise failure
