from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from hemaflow.infra.store import lease as lease_module
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.lease import Lease

NAME = "stages/train/k/lease.json"
HOLD = """
import sys, time
from hemaflow.infra.store.lease import Lease
from hemaflow.infra.store.open import open_store
assert Lease(open_store(sys.argv[1]), sys.argv[2], 60.0).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_one_of_many_holds_it_until_it_is_given_back(any_store: Store) -> None:
    leases = [Lease(any_store, NAME, 30.0) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda lease: lease.acquire(), leases))
    assert held.count(True) == 1
    with leases[held.index(True)].kept():
        assert not Lease(any_store, NAME, 30.0).acquire()
    assert list(any_store.list("")) == []
    assert Lease(any_store, NAME, 30.0).acquire()


def test_one_that_is_renewed_stays_with_its_holder(any_store: Store) -> None:
    holder, other = Lease(any_store, NAME, 0.6), Lease(any_store, NAME, 0.6)
    assert holder.acquire()
    with holder.kept():
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            assert not other.acquire()
            time.sleep(0.05)


@pytest.mark.slow
def test_that_of_a_killed_process_is_free_at_once(any_store: Store) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, any_store.url, NAME], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert not Lease(any_store, NAME, 60.0).acquire()
    process.kill()
    process.wait()
    process.stdout.close()
    assert Lease(any_store, NAME, 60.0).acquire()


def elsewhere(store: Store, **changes: object) -> None:
    """Make the lease that of a process on another machine."""
    held = json.loads(store.get(NAME)) | {"machine": "another"} | changes
    store.put(NAME, json.dumps(held).encode())


def test_that_of_another_machine_is_free_when_it_was_not_renewed_for_its_duration(any_store: Store) -> None:
    assert Lease(any_store, NAME, 1.0).acquire()
    elsewhere(any_store)
    other, began = Lease(any_store, NAME, 1.0), time.monotonic()
    while not other.acquire():
        time.sleep(0.05)
    assert 1.0 <= time.monotonic() - began < 3.0


def test_a_clock_that_is_wrong_takes_no_lease(any_store: Store) -> None:
    assert Lease(any_store, NAME, 1.0).acquire()
    elsewhere(any_store, renewed=time.time() - lease_module.CLOCK_SKEW_SECONDS / 2)
    assert not Lease(any_store, NAME, 1.0).acquire()
    elsewhere(any_store, renewed=time.time() - 2 * lease_module.CLOCK_SKEW_SECONDS)
    assert Lease(any_store, NAME, 1.0).acquire()


def test_a_holder_that_lost_it_does_not_give_back_that_of_another(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, other = Lease(any_store, NAME, 60.0), Lease(any_store, NAME, 60.0)
    assert lost.acquire()
    with ExitStack() as stack:
        stack.enter_context(lost.kept())
        elsewhere(any_store, renewed=0.0)
        assert other.acquire()
    assert not Lease(any_store, NAME, 60.0).acquire()
