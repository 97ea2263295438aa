"""What a source says of its content: of all together, and of each picture; and that repeats read nothing."""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemaflow.infra import stat_cache
from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.tasks.sources.base import Source
from hemaflow.tasks.sources.kinds.folders import FolderSource
from hemaflow.tasks.sources.kinds.npz import NpzSource
from hemaflow.tasks.sources.kinds.zips import ZipSource
from hemaflow.tasks.sources.layout import scan_class_folders
from hemaflow.tasks.sources.registry import open_source

NAMES = ("a/1.png", "a/2.png", "a b/3.png", "b/4.png", "b/deep/5.png", "b/deep.png")


def encoded(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (brightness, 20, 30)).save(file, "PNG")
    return file.getvalue()


def make_folder(root: Path, brightness: int) -> Path:
    for number, name in enumerate(NAMES):
        (root / "cells" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "cells" / name).write_bytes(encoded(brightness + number))
    return root / "cells"


def make_zip(root: Path, brightness: int) -> Path:
    with zipfile.ZipFile(root / "cells.zip", "w") as archive:
        for number, name in enumerate(NAMES):
            archive.writestr(zipfile.ZipInfo(name), encoded(brightness + number))
    return root / "cells.zip"


def make_npz(root: Path, brightness: int) -> Path:
    images = np.zeros((6, 5, 4, 3), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]
    np.savez(root / "cells.npz", images=images + np.uint8(brightness), labels=np.arange(6) % 2)
    return root / "cells.npz"


MAKERS = {"folder": make_folder, "zip": make_zip, "npz": make_npz}
Make = Callable[[Path, int], Path]


@pytest.fixture(params=list(MAKERS))
def make(request: pytest.FixtureRequest) -> Make:
    return MAKERS[request.param]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Files are old after 15 ms: Linux counts the times of files in steps of 10 ms at most."""
    monkeypatch.setattr(stat_cache, "RACY_NANOSECONDS", 15_000_000)
    return Settings(stat_cache_dir=tmp_path / "cache", workers=2)


def all_identities(source: Source) -> dict[str, bytes]:
    refs = [item.ref for item in source.scan().items]
    return dict(zip(refs, map(bytes, source.identities(refs)), strict=True))


def test_each_picture_has_the_identity_of_its_content(tmp_path: Path, make: Make) -> None:
    path = make(tmp_path, 100)
    with open_source(str(path), Settings()) as source:
        found = all_identities(source)
        assert len(set(found.values())) == len(found) == 6
        if path.suffix != ".npz":
            expected = {name: hashlib.sha256(encoded(100 + k)).digest() for k, name in enumerate(NAMES)}
            assert found == expected
        some = list(found)[3:1:-1]
        assert [bytes(each) for each in source.identities(some)] == [found[ref] for ref in some]
        assert source.identities([]).shape == (0, 32)
    make(tmp_path, 101)
    with open_source(str(path), Settings()) as source:
        moved = all_identities(source)
    assert next(iter(moved.values())) in found.values()
    assert len(set(moved.values()) | set(found.values())) == 7


def test_a_repeat_reads_no_content(
    tmp_path: Path, make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(make(tmp_path, 100))
    time.sleep(0.03)

    def look() -> tuple[str, dict[str, bytes]]:
        with open_source(path, settings) as source:
            return source.content_digest(), all_identities(source)

    first = look()
    opened: list[str] = []
    real = builtins.open

    def noted(file: str, *arguments: object, **options: object) -> object:
        opened.append(str(file))
        return real(file, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", noted)
    for owner, name in ((stat_cache, "_hashed"), (NpzSource, "_unpacked"), (zipfile.ZipFile, "read")):
        monkeypatch.setattr(owner, name, None)
    assert look() == first
    assert [file for file in opened if file.endswith(".png")] == []


def test_a_change_that_leaves_size_and_mtime_is_noticed(
    tmp_path: Path, make: Make, settings: Settings
) -> None:
    path = make(tmp_path, 100)
    time.sleep(0.03)

    def look() -> tuple[str, dict[str, bytes]]:
        with open_source(str(path), settings) as source:
            return source.content_digest(), all_identities(source)

    first = look()
    files = [path] if path.is_file() else sorted(path.rglob("*.png"))
    before = {file: file.stat() for file in files}
    make(tmp_path, 60)
    for file, status in before.items():
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    digest, identities = look()
    assert digest != first[0]
    assert not set(identities.values()) & set(first[1].values())
    with open_source(str(path), Settings(stat_cache_dir=tmp_path / "other")) as source:
        assert (source.content_digest(), all_identities(source)) == (digest, identities)


def test_what_changed_while_it_was_read_is_not_remembered(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zip is replaced after it was hashed and before its members were; then the first one comes back."""
    path = make_zip(tmp_path, 100)
    (tmp_path / "other").mkdir()
    other = make_zip(tmp_path / "other", 60)
    time.sleep(0.03)
    with open_source(str(path), settings) as source:
        expected = [bytes(each) for each in source.identities(NAMES[:2])]
    hashed = ZipSource._sha256s

    def replaced_meanwhile(self: ZipSource, refs: list[str], sha256: str) -> tuple[bytes, bytes]:
        path.rename(tmp_path / "kept")
        other.rename(path)
        try:
            return hashed(self, refs, sha256)
        finally:
            path.rename(other)
            (tmp_path / "kept").rename(path)

    monkeypatch.setattr(ZipSource, "_sha256s", replaced_meanwhile)
    some = list(NAMES[2:])
    with open_source(str(path), settings) as source:
        wrong = [bytes(each) for each in source.identities(some)]
    monkeypatch.setattr(ZipSource, "_sha256s", hashed)
    time.sleep(0.03)
    with open_source(str(path), settings) as source:
        assert [bytes(each) for each in source.identities(NAMES[:2])] == expected
        right = [bytes(each) for each in source.identities(some)]
    assert right == [hashlib.sha256(encoded(102 + k)).digest() for k in range(4)]
    assert not set(wrong) & set(right)


def test_the_digest_of_a_folder_is_that_of_its_sorted_paths(tmp_path: Path) -> None:
    """As keys of earlier results hold it. Folders and files interleave in the order of their paths."""
    root = make_folder(tmp_path, 100)
    (root / "empty").mkdir()
    total = hashlib.sha256()
    files = {file.relative_to(root).as_posix(): file for file in root.rglob("*.png")}
    for name in sorted(files):
        total.update(f"{name}\0{hashlib.sha256(files[name].read_bytes()).hexdigest()}\0".encode())
    assert FolderSource(root).content_digest() == total.hexdigest()


def test_a_file_that_is_gone_has_no_identity(tmp_path: Path) -> None:
    root = make_folder(tmp_path, 100)
    for ref in ("a/9.png", "c/1.png", "a"):
        with pytest.raises(DataError, match=r"cannot be read(.|\n)*No such file"):
            FolderSource(root).identities([ref])


def test_a_damaged_member_is_like_no_other(tmp_path: Path) -> None:
    path = make_zip(tmp_path, 100)
    content = path.read_bytes().replace(encoded(103), b"\0" * len(encoded(103)))
    path.write_bytes(content)
    with open_source(str(path), Settings()) as source:
        found = all_identities(source)
    (tmp_path / "other").mkdir()
    other = make_zip(tmp_path / "other", 101)
    other.write_bytes(other.read_bytes().replace(encoded(104), b"\0" * len(encoded(104))))
    with open_source(str(other), Settings()) as source:
        assert found["b/4.png"] not in all_identities(source).values()
    assert found["a/1.png"] == hashlib.sha256(encoded(100)).digest()


def test_the_drawn_cells_are_identified_without_being_drawn() -> None:
    with open_source("sample", Settings()) as source:
        assert len(set(all_identities(source).values())) == 480


def seconds_of_scan(num_classes: int) -> float:
    files = sorted(f"patients/{number}/{k}.png" for number in range(num_classes) for k in range(2))
    folders = ["patients", *(f"patients/{number}" for number in range(num_classes))]
    began = time.process_time()
    assert len(scan_class_folders(files, folders, "cells").classes) == num_classes
    return time.process_time() - began


def test_the_time_of_a_scan_grows_with_the_number_of_folders() -> None:
    """Ten times the folders take about ten times as long; in all pairs they would take a hundred times."""
    few = min(seconds_of_scan(1000) for _ in range(3))
    assert min(seconds_of_scan(10_000) for _ in range(2)) < 30 * few
