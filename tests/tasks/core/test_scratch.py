from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hemaflow.infra.errors import StoreFull
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.records.tfrecord import write_records


def test_the_folder_goes_away() -> None:
    with scratch_folder() as folder:
        (folder / "file").write_bytes(b"x")
    assert not folder.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told(number: int) -> None:
    with (
        pytest.raises(StoreFull, match=r"disk for temporary files is full(.|\n)*set TMPDIR"),
        scratch_folder(),
    ):
        raise OSError(number, os.strerror(number))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
def test_a_full_disk_that_shards_meet_is_told() -> None:
    with pytest.raises(StoreFull, match=r"disk for temporary files is full"), scratch_folder():
        write_records(Path("/dev/full"), iter([b"x" * 1000] * 1000))


@pytest.mark.parametrize("error", [ValueError("No space left on device"), OSError(errno.EACCES, "denied")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)), scratch_folder():
        raise error
