"""A folder for files that are on their way to the store."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import StoreFull

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give an empty folder that goes away. Raises StoreFull where what is written to it finds no space."""
    with tempfile.TemporaryDirectory(prefix="hemaflow-") as name:
        try:
            yield Path(name).resolve()
        except Exception as error:
            if not _is_full(error):
                raise
            raise StoreFull(
                "The disk for temporary files is full: what was being written was not kept.",
                received=str(error),
                where=name,
                remedy="Free some space, or set TMPDIR to a larger disk; then run the same command.",
            ) from error


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    # TensorFlow raises errors of its own, which end in the system's words.
    own = type(error).__module__.startswith("tensorflow")
    return own and any(os.strerror(number) in str(error) for number in FULL)
