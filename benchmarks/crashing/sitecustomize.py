"""Has every Python process of a run write down what it does to the store, and die at a chosen point.

Python imports this at its start where this folder is on PYTHONPATH. `CRASH_TRACE` names a file that gets a
line for each write; `CRASH_AT` (`before put_file stages/train/*/model.keras`) the point at which the whole
process group is killed, as by a power cut.
"""

from __future__ import annotations

import fnmatch
import os
import re
import signal
from collections.abc import Callable, Iterable
from typing import Any


def watch(kind: type) -> None:
    """Wrap every method of a store's class that writes."""
    for name in ("put", "put_file", "create", "swap", "delete"):
        setattr(kind, name, watched(name, getattr(kind, name)))


def watched(operation: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that says what it is about to do and what it did."""

    def wrapper(self: Any, target: str | Iterable[str], *arguments: Any) -> Any:
        names = [target] if isinstance(target, str) else list(target)
        for name in names:
            happens("before", operation, name)
        result = method(self, target if isinstance(target, str) else names, *arguments)
        for name in names:
            happens("after", operation, name)
        return result

    return wrapper


def happens(when: str, operation: str, name: str) -> None:
    """Write down a point of the run; die there if it is the one."""
    # Keys and content hashes are left out: points have the same names in every run.
    point = f"{when} {operation} {re.sub(r'/[0-9a-f]{16,64}(?=/)', '', re.sub(r'runs/.*', 'runs/*', name))}"
    descriptor = os.open(os.environ["CRASH_TRACE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{point}\n".encode())
    os.close(descriptor)
    wanted, _, nth = os.environ.get("CRASH_AT", "").partition("#")
    if wanted and fnmatch.fnmatchcase(point, wanted):
        with open(os.environ["CRASH_TRACE"]) as trace:
            met = sum(fnmatch.fnmatchcase(line.strip(), wanted) for line in trace)
        if met >= int(nth or 1):
            os.killpg(os.getpgrp(), signal.SIGKILL)


if "CRASH_TRACE" in os.environ:
    if os.environ["CRASH_STORE"].startswith("s3://"):
        from hemaflow.infra.store.s3 import S3Store

        watch(S3Store)
    else:
        from hemaflow.infra.store.local import LocalStore

        watch(LocalStore)
