"""Leases: who is at work on something, so that others wait for it instead of doing it again.

A lease is advice. What must happen once rests on conditional writes alone: a holder that lost its lease
without noticing does harm to nobody. None outlives its holder: it is renewed while the holder lives, and free
for whoever saw it unchanged for its duration, by their own clock.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from hemaflow.infra.errors import StoreError
from hemaflow.infra.store.base import Store

CLOCK_SKEW_SECONDS = 300.0
"""How far apart the clocks of two machines may be."""


class _Holder(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    machine: str
    pid: int
    process_started: float
    renewed: float
    seconds: float

    @property
    def is_gone(self) -> bool:
        """Whether it is certain that the holder does not live any more."""
        if time.time() - self.renewed > self.seconds + CLOCK_SKEW_SECONDS:
            return True
        if self.machine != _machine():
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.process_started) > 1.0)
        except psutil.NoSuchProcess:
            return True


class Lease:
    """One process's claim to an object of a store.

    Args:
        store: The store.
        name: The object.
        seconds: How long the claim lasts when it is not renewed.
    """

    def __init__(self, store: Store, name: str, seconds: float) -> None:
        self._store, self._name, self._seconds = store, name, seconds
        self._id = uuid.uuid4().hex
        self._seen: tuple[str, float] = ("", 0.0)

    def acquire(self) -> bool:
        """Take the lease where it is free, and say whether it is ours. To be asked again while it is not."""
        if self._store.create(self._name, self._document()):
            return True
        found = self._store.get_tagged(self._name)
        if found is None:
            return self.acquire()
        data, tag = found
        if tag != self._seen[0]:
            self._seen = (tag, time.monotonic())
        unchanged = time.monotonic() - self._seen[1] > self._seconds
        if unchanged or _Holder.model_validate_json(data).is_gone:
            return self._store.swap(self._name, self._document(), tag)
        return False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew an acquired lease until the end of the block; then give it back."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self._seconds / 3):
                with suppress(StoreError):  # it may be back before the lease has run out
                    found = self._store.get_tagged(self._name)
                    if found is None or _Holder.model_validate_json(found[0]).id != self._id:
                        return  # taken over, as that of a holder that was not heard of
                    self._store.swap(self._name, self._document(), found[1])

        thread = threading.Thread(target=renew, daemon=True, name="lease")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(StoreError):  # it runs out by itself
                found = self._store.get_tagged(self._name)
                if found and _Holder.model_validate_json(found[0]).id == self._id:
                    self._store.delete([self._name])

    def _document(self) -> bytes:
        return (
            _Holder(
                id=self._id,
                machine=_machine(),
                pid=os.getpid(),
                process_started=psutil.Process().create_time(),
                renewed=time.time(),
                seconds=self._seconds,
            )
            .model_dump_json()
            .encode()
        )


def _machine() -> str:
    """Return what tells this machine, since its start, from others that use the store."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{platform.node()} {boot}".strip()
