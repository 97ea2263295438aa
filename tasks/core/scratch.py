"""A temporary folder for files before they are stored."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hemaflow.infra.errors import StoreFull

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder, and remove it afterwards. Raises StoreFull where the disk is full."""
    with tempfile.TemporaryDirectory(prefix="hemaflow-") as name:
        try:
            yield Path(name).resolve()
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise StoreFull(
                "The disk for temporary files is full: what was being written was not kept.",
                received=str(error),
                where=name,
                remedy="Free some space, or set TMPDIR to a larger disk; then run the same command.",
            ) from error
