from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hemaflow.flows.runs.upkeep import collect_garbage
from hemaflow.infra.errors import StoreError
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import open_store


def test_others_may_read_what_the_umask_lets_them(store: LocalStore) -> None:
    umask = os.umask(0o027)
    try:
        store.put("a", b"x")
        store.create("b", b"x")
    finally:
        os.umask(umask)
    assert {(store.root / name).stat().st_mode & 0o777 for name in ("a", "b")} == {0o640}


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(store: LocalStore) -> None:
    store.put("stages/a", b"x")
    (store.root / "runs").symlink_to("runs")  # a link to itself: to look into it is an error, for root too
    assert list(store.list("stages/")) == ["stages/a"]
    with pytest.raises(StoreError, match="could not be listed"):
        list(store.list("runs/"))
    with pytest.raises(StoreError, match="could not be listed"):
        collect_garbage(store, keep_runs=1, grace_seconds=0.0)
    assert list(store.list("stages/")) == ["stages/a"]
    assert list(store.list("nothing/")) == []


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_nothing(store: LocalStore) -> None:
    """A process whose files may not grow: the kernel refuses the write as a full disk would."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from hemaflow.infra.store.local import LocalStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = LocalStore(Path(sys.argv[1])); store.put('small', b'x' * 1000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "store.put('large', b'x' * 100_000)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(store.root)], capture_output=True, text=True)
    assert result.returncode == 1
    assert "hemaflow.infra.errors.StoreFull: The disk is full" in result.stderr
    assert "Free some space" in result.stderr
    assert list(store.list("")) == ["small"]
    assert list((store.root / ".staging").iterdir()) == []


def test_what_a_killed_write_left_is_dropped_when_it_is_old(store: LocalStore) -> None:
    store.put("a", b"x")
    left = store.root / ".staging" / ("0" * 32)
    left.write_bytes(b"half of it")
    assert store.drop_unfinished_writes(before=time.time() - 60) == 0
    assert store.drop_unfinished_writes(before=time.time() + 60) == 10
    assert not left.exists()


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}").url == str(tmp_path)
