"""Tries work again that failed because the store was away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from hemaflow.infra.errors import StoreUnavailable

RETRY_SECONDS: tuple[float, ...] = (10.0, 60.0)
"""Waits before the retries of work that failed because the store was away; its client retried before that."""

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def with_retries(work: Callable[[], Result]) -> Result:
    """Return what some work returns; call it again where the store was away."""
    for seconds in RETRY_SECONDS:
        try:
            return work()
        except StoreUnavailable as error:
            log.warning("the store is away, next try in %.0f s: %s", seconds, error.what)
            time.sleep(seconds)
    return work()
