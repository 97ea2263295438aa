from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.sources.bloodmnist_releases import RELEASES, Release
from hemaflow.tasks.sources.kinds.bloodmnist import BloodMnistSource
from hemaflow.tasks.sources.registry import open_source

COUNTS = {"train": 24, "val": 8, "test": 9}


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that it is served at."""
    root = tmp_path / "served"
    root.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=root))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield root, f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def published() -> tuple[bytes, dict[str, np.ndarray]]:
    """A file of the form that MedMNIST+ publishes."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in COUNTS.items():
        arrays[f"{split}_images"] = rng.integers(0, 255, (count, 28, 28, 3), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 8)[:, None]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue(), arrays


def release(data: bytes, address: str) -> dict[str, Release]:
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return {"bloodmnist": Release("bloodmnist.npz", md5, 28, address)}


def settings(tmp_path: Path) -> Settings:
    return Settings(download_dir=tmp_path / "downloads", manual_dir=tmp_path / "manual")


def check(source: BloodMnistSource, arrays: dict[str, np.ndarray]) -> None:
    with source:
        scan = source.scan()
        assert scan.classes == list(PBC_CLASSES)
        assert {split: sum(item.split == split for item in scan.items) for split in COUNTS} == COUNTS
        for item in scan.items:
            row = int(item.ref.partition("/")[2])
            np.testing.assert_array_equal(source.read(item.ref), arrays[f"{item.split}_images"][row])
            assert item.class_name == PBC_CLASSES[int(arrays[f"{item.split}_labels"][row, 0])]


def test_it_is_downloaded_checked_and_split_as_published(tmp_path: Path, server: tuple[Path, str]) -> None:
    data, arrays = published()
    root, address = server
    (root / "bloodmnist.npz").write_bytes(data)
    releases = release(data, address)
    check(BloodMnistSource("bloodmnist", settings(tmp_path), releases), arrays)
    (root / "bloodmnist.npz").unlink()  # what is prepared is not downloaded again
    check(BloodMnistSource("bloodmnist", settings(tmp_path), releases), arrays)


@pytest.mark.slow
def test_a_host_that_cannot_be_reached_names_the_manual_folder_which_works(tmp_path: Path) -> None:
    data, arrays = published()
    releases = release(data, "http://127.0.0.1:9")
    chosen = settings(tmp_path)
    manual = chosen.manual_dir / "bloodmnist.npz"
    with pytest.raises(DataError, match="Download it by hand") as raised:
        BloodMnistSource("bloodmnist", chosen, releases).scan()
    assert str(manual) in str(raised.value)
    manual.parent.mkdir()
    manual.write_bytes(data)
    check(BloodMnistSource("bloodmnist", chosen, releases), arrays)


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    data, _ = published()
    chosen = settings(tmp_path)
    chosen.manual_dir.mkdir()
    (chosen.manual_dir / "bloodmnist.npz").write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"not the published file(.|\n)*Expected: MD5"):
        BloodMnistSource("bloodmnist", chosen, release(data, "http://127.0.0.1:9")).scan()


def test_the_releases_are_those_of_medmnist() -> None:
    assert RELEASES["bloodmnist"].md5 == "7053d0359d879ad8a5505303e11de1dc"
    assert [release.size_pixels for release in RELEASES.values()] == [28, 64, 128, 224]
    assert len({release.md5 for release in RELEASES.values()}) == 4
    with pytest.raises(DataError, match="Did you mean 'bloodmnist-64'"):
        open_source("bloodmnist-65", Settings())
