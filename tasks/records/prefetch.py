"""Shards of a store as local files, fetched in the background in the order in which they are read.

A file is lent for as long as it is read: of all shards, no more need be on the disk at once than those being
read and the FETCHED_AHEAD after them. Whether the others stay, for the next epoch, the store decides
(infra/store/staging.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count, islice
from pathlib import Path

from hemaflow.infra.results.manifest import StoredObject
from hemaflow.tasks.core.stage import Parents

FETCHED_AHEAD = 4
"""Shards that are fetched, in parallel, while those before them are read; a shard is about 32 MB."""


class PrefetchedShards:
    """Local files of stored shards: reading begins with the first while the next are fetched.

    Args:
        parents: The results that the shards belong to.
        shards: The shards.
    """

    def __init__(self, parents: Parents, shards: Sequence[StoredObject]) -> None:
        self._parents, self._shards = parents, shards
        self._numbers = count()
        self._lent: dict[int, ExitStack] = {}
        self._failure: Exception | None = None

    def __len__(self) -> int:
        """Return how many shards there are."""
        return len(self._shards)

    def lend(self, order: Iterable[int]) -> Iterator[tuple[int, Path]]:
        """Yield the local files of shards; each stays until `give_back`, or until this generator is closed.

        Args:
            order: Places in the sequence of shards.

        Yields:
            The number of the lending, and the file.

        Raises:
            ObjectMissing: The store no longer has a shard.
            ObjectAltered: Its bytes differ from those that were recorded.
        """
        fetches: deque[Future[tuple[ExitStack, Path]]] = deque()
        numbers: list[int] = []
        places = iter(order)
        pool = ThreadPoolExecutor(FETCHED_AHEAD, thread_name_prefix="fetch")
        try:
            fetches.extend(pool.submit(self._fetch, place) for place in islice(places, FETCHED_AHEAD))
            while fetches:
                lent, path = fetches.popleft().result()
                fetches.extend(pool.submit(self._fetch, place) for place in islice(places, 1))
                numbers.append(next(self._numbers))
                self._lent[numbers[-1]] = lent
                yield numbers[-1], path
        except Exception as error:
            self._failure = error
            raise
        except GeneratorExit:
            for number in numbers:
                self.give_back(number)
            raise
        finally:
            for fetch in fetches:
                if not fetch.cancel():
                    fetch.add_done_callback(_give_back_fetched)
            pool.shutdown(wait=False)

    def give_back(self, number: int) -> bool:
        """End a lending; return False, for tf.data to filter by."""
        if lent := self._lent.pop(int(number), None):
            lent.close()
        return False

    def raise_failure(self) -> None:
        """Raise the error that stopped a fetch, if any: TensorFlow itself reports only that an op failed."""
        if self._failure:
            raise self._failure

    def _fetch(self, place: int) -> tuple[ExitStack, Path]:
        lent = ExitStack()
        return lent, lent.enter_context(self._parents.lend(self._shards[place]))


def _give_back_fetched(fetch: Future[tuple[ExitStack, Path]]) -> None:
    if not fetch.exception():
        fetch.result()[0].close()
