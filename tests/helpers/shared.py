"""What all processes of one run of the tests share: made once, by the process that needs it first."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hemaflow.infra.deploy.stack import Stack


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of this run of the tests share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Be the only process in the block of that name; the kernel gives the lock back, whatever happens."""
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` has filled, in this process or in another one; nobody changes it."""
    parent = shared_folder(factory)
    folder, done = parent / name, parent / f"{name}.done"
    with locked(parent, name):
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder


@contextmanager
def shared_stack(
    factory: pytest.TempPathFactory, name: str, start: Callable[[Stack], object]
) -> Iterator[Stack]:
    """Give servers that this run of the tests has once; who started them ends them when nobody uses them."""
    parent = shared_folder(factory)
    stack, users = Stack(parent / name), parent / f"{name}.users"
    with locked(parent, name):
        is_first = not users.exists()
        if is_first:
            start(stack)
        using = users.open("a")
        fcntl.flock(using, fcntl.LOCK_SH)
    try:
        yield stack
    finally:
        while is_first:
            with locked(parent, name), suppress(BlockingIOError):
                fcntl.flock(using, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stack.down()
                users.unlink()
                break
            time.sleep(0.2)
        using.close()
