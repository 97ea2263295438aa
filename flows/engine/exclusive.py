"""One run at a time makes a result: the others wait for it, and take what it made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hemaflow.infra.store.base import Store
from hemaflow.infra.store.lease import Lease

WAIT_SECONDS = 2.0
"""How often a run that waits for another one's result looks for it."""
Result = TypeVar("Result")


@contextmanager
def exclusive(
    store: Store,
    folder: str,
    lease_seconds: float,
    look: Callable[[], Result | None],
    waits: Callable[[], None] = lambda: None,
) -> Iterator[Result | None]:
    """Hold the lease of a result; or wait for the run that holds it, and yield what that one made.

    Args:
        store: Holds the result.
        folder: The folder of its unfinished work.
        lease_seconds: How long the lease of a run that died is respected; 0 for no lease.
        look: Returns the result, if it is complete.
        waits: Called once, when another run turns out to be making the result.

    Yields:
        None where the result is the caller's to make, or was made before it held the lease.
    """
    if not lease_seconds:
        yield None
        return
    lease = Lease(store, f"{folder}/lease.json", lease_seconds)
    waited = False
    while not lease.acquire():
        if not waited:
            waits()
        waited = True
        time.sleep(min(WAIT_SECONDS, lease_seconds / 3))
        found = look()
        if found is not None:
            yield found
            return
    with lease.kept():
        yield None
