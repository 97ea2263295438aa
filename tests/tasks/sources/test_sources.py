from __future__ import annotations

import io
import random
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hemaflow.infra.errors import DataError
from hemaflow.infra.registry import Registry
from hemaflow.infra.results.fingerprint import code_fingerprint
from hemaflow.infra.settings import Settings
from hemaflow.tasks.sources import registry as registry_module
from hemaflow.tasks.sources.base import Item, Scan, Source
from hemaflow.tasks.sources.images import MAX_IMAGE_PIXELS, Unreadable, decode_image, fit
from hemaflow.tasks.sources.kinds.sample import SampleSource
from hemaflow.tasks.sources.registry import SOURCES, open_source, source_forms


def encoded(colour: tuple[int, int, int] = (200, 20, 30), size: tuple[int, int] = (12, 12)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def opened(path: Path) -> Source:
    return open_source(str(path), Settings())


def found(path: Path) -> tuple[list[str], list[tuple[str, str, str]], list[tuple[str, str]]]:
    with opened(path) as source:
        scan = source.scan()
    items = [(item.ref, item.class_name, item.split) for item in scan.items]
    return scan.classes, items, [(f.kind, f.items[0]) for f in scan.findings]


BOTH: list[Callable[[Path, dict[str, bytes]], Path]] = [
    lambda root, files: folder(root / "cells", files),
    lambda root, files: zipped(root / "cells.zip", files),
]


@pytest.mark.parametrize("make", BOTH, ids=["folder", "zip"])
def test_folders_are_classes(tmp_path: Path, make: Any) -> None:
    files = {"b/2.png": encoded(), "a/1.JPG": encoded(), "b/deep/3.png": encoded()}
    classes, items, findings = found(make(tmp_path, files))
    assert classes == ["a", "b"]
    assert items == [("a/1.JPG", "a", ""), ("b/2.png", "b", ""), ("b/deep/3.png", "b", "")]
    assert findings == []


@pytest.mark.parametrize("make", BOTH, ids=["folder", "zip"])
def test_wrapping_folders_are_looked_through(tmp_path: Path, make: Any) -> None:
    files = {"set/of/cells/a/1.png": encoded(), "set/of/cells/b/2.png": encoded()}
    assert found(make(tmp_path, files))[0] == ["a", "b"]


@pytest.mark.parametrize("make", BOTH, ids=["folder", "zip"])
def test_folders_of_splits_are_splits(tmp_path: Path, make: Any) -> None:
    files = {"train/a/1.png": encoded(), "train/b/2.png": encoded(), "Test/a/3.png": encoded()}
    classes, items, _ = found(make(tmp_path, files))
    assert classes == ["a", "b"]
    assert {(item[0], item[2]) for item in items} == {
        ("train/a/1.png", "train"),
        ("train/b/2.png", "train"),
        ("Test/a/3.png", "test"),
    }


@pytest.mark.parametrize("make", BOTH, ids=["folder", "zip"])
def test_what_is_no_image_of_a_class_is_told(tmp_path: Path, make: Any) -> None:
    files = {
        "a/1.png": encoded(),
        "b/2.png": encoded(),
        "notes.txt": b"hi",
        "a/notes.csv": b"hi",
        "stray.png": encoded(),
        "a/.hidden.png": encoded(),
        "__MACOSX/a/._1.png": b"",
    }
    classes, items, findings = found(make(tmp_path, files))
    assert classes == ["a", "b"]
    assert len(items) == 2
    ignored = {"notes.txt", "a/notes.csv", "stray.png", "a/.hidden.png", "__MACOSX/a/._1.png"}
    assert set(findings) == {("ignored-file", name) for name in ignored}


def test_an_empty_class_is_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "cells", {"a/1.png": encoded(), "b/2.png": encoded()})
    (root / "empty").mkdir()
    assert found(root)[2] == [("empty-class", "empty")]
    archive = zipped(tmp_path / "cells.zip", {"a/1.png": encoded(), "b/2.png": encoded(), "empty/": b""})
    assert found(archive)[2] == [("empty-class", "empty")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/1.png": encoded()}, "nothing to tell apart"),
        ({"a/notes.txt": b"", "b/more.txt": b""}, "There are no images"),
        ({}, "There are no images"),
    ],
)
@pytest.mark.parametrize("make", BOTH, ids=["folder", "zip"])
def test_a_source_without_two_classes_is_refused(
    tmp_path: Path, make: Any, files: dict[str, bytes], message: str
) -> None:
    (tmp_path / "cells").mkdir()
    with pytest.raises(DataError, match=message):
        found(make(tmp_path, files))


def test_the_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    def digest(name: str, files: dict[str, bytes]) -> str:
        return opened(folder(tmp_path / name, files)).content_digest()

    files = {"a/1.png": encoded(), "b/2.png": encoded()}
    assert digest("one", files) == digest("two", dict(reversed(files.items())))
    assert digest("one", files) != digest("three", {**files, "b/2.png": encoded((1, 2, 3))})
    assert digest("one", files) != digest("four", {"a/1.png": encoded(), "b/3.png": encoded()})


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encoded())
    root = folder(tmp_path / "cells", {"a/1.png": encoded(), "b/2.png": encoded()})
    (root / "a" / "3.png").symlink_to(tmp_path / "secret.png")
    assert [item[0] for item in found(root)[1]] == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize("name", ["../a/1.png", "/a/1.png", "a/../../1.png", "a\\1.png"])
def test_a_path_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    files = {"a/1.png": encoded(), "b/2.png": encoded(), name: encoded()}
    with pytest.raises(DataError, match="outside of itself"):
        found(zipped(tmp_path / "cells.zip", files))


def test_a_cut_off_zip_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "cells.zip", {"a/1.png": encoded(), "b/2.png": encoded()})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cut off(.|\n)*Download or copy it again"):
        opened(path)


def test_a_damaged_or_bloated_member_is_unreadable(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, 4000, np.uint8).tobytes()
    files = {"a/1.png": noise, "a/zeros.png": b"\0" * (2 << 20), "b/2.png": encoded()}
    path = zipped(tmp_path / "cells.zip", files)
    data = bytearray(path.read_bytes())
    data[1000:1100] = b"x" * 100
    path.write_bytes(bytes(data))
    with opened(path) as source:
        for ref, reason in (("a/1.png", "damaged in the archive|no JPEG"), ("a/zeros.png", "no JPEG or PNG")):
            with pytest.raises(Unreadable, match=reason):
                source.read(ref)
        assert source.read("b/2.png").shape == (12, 12, 3)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_any_compression_is_unreadable_and_the_others_are_read(
    tmp_path: Path, method: int
) -> None:
    rng = random.Random(method)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30, 3), np.uint8))
    file = io.BytesIO()
    noise.save(file, "PNG")
    path, unreadable = tmp_path / "cells.zip", 0
    for _ in range(200):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a/1.png", file.getvalue())
            start = archive.fp.tell()  # type: ignore[union-attr]
            archive.writestr("b/2.png", file.getvalue())
        data = bytearray(path.read_bytes())
        header = 30 + len("a/1.png")
        for _ in range(rng.randint(1, 5)):
            place = rng.randrange(header, header + 40 if rng.random() < 0.5 else start)
            data[place] = rng.randrange(256)
        path.write_bytes(bytes(data))
        with opened(path) as source:
            assert len(source.scan().items) == 2
            try:
                source.read("a/1.png")
            except Unreadable:
                unreadable += 1
            np.testing.assert_array_equal(source.read("b/2.png"), np.asarray(noise))
    assert unreadable > 150


@pytest.mark.parametrize("side", [8000, 65000])
def test_a_decompression_bomb_is_unreadable(tmp_path: Path, side: int) -> None:
    assert side * side > MAX_IMAGE_PIXELS
    root = folder(tmp_path / "cells", {"a/1.png": png_header(side, side), "b/2.png": encoded()})
    with pytest.raises(Unreadable, match=r"too many|decompression bomb"):
        opened(root).read("a/1.png")


@pytest.mark.parametrize("data", [b"no picture", encoded()[:40], b""])
def test_what_is_no_image_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode_image(io.BytesIO(data))


def test_images_are_upright_rgb_on_white() -> None:
    def decode(image: Image.Image, **options: Any) -> np.ndarray:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        pixels: np.ndarray = decode_image(io.BytesIO(buffer.getvalue()))
        return pixels

    assert (decode(Image.new("RGBA", (4, 4), (9, 9, 9, 0))) == 255).all()
    assert (decode(Image.new("L", (4, 4), 77)) == 77).all()
    assert (decode(Image.new("P", (4, 4), 0)) == 0).all()
    wide = Image.new("RGB", (6, 2))
    exif = wide.getexif()
    exif[0x0112] = 6  # the camera was turned by 90°
    assert decode(wide, exif=exif).shape == (6, 2, 3)


def test_of_sixteen_bits_the_upper_eight_are_kept() -> None:
    from PIL import Image

    levels = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="PNG")
    file.seek(0)
    pixels = decode_image(file)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2))


def test_pictures_that_are_not_square_are_fitted() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 200, 30)
    assert (fit(wide, 8, "crop") == (10, 200, 30)).all()
    padded = fit(wide, 12, "pad")
    assert (padded[:3] == 0).all()
    np.testing.assert_allclose(padded[5, 5], (10, 200, 30), atol=25)  # bicubic overshoots
    stretched = fit(wide, 9, "stretch")
    np.testing.assert_allclose(stretched[4, 4], (10, 200, 30), atol=25)
    assert (stretched[:, 0] == 0).all()
    assert fit(wide[:, :20], 20, "crop") is not None


@pytest.mark.parametrize("data", ["smaple", "cells", "cells.tar", "bloodmnist-96"])
def test_an_unknown_source_names_the_known(data: str) -> None:
    with pytest.raises(DataError, match=r"One of: .*bloodmnist-64") as caught:
        open_source(data, Settings())
    for kind in SOURCES.values():
        assert kind.names or kind.form in caught.value.expected


def test_every_kind_of_source_says_what_it_opens() -> None:
    assert set(SOURCES) == {"bloodmnist", "folder", "npz", "s3", "sample", "zip"}
    for kind in SOURCES.values():
        assert kind.form
        assert kind.opened("no such thing", Settings()) is None
        assert all(name in source_forms() for name in kind.names or (kind.form,))


def test_a_source_is_added_by_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a registry of its own, for the test alone."""
    registry: Registry[type[Source]] = Registry("data source")
    monkeypatch.setattr(registry_module, "SOURCES", registry)

    @registry.register("text")
    class TextSource(Source):
        form = "a .txt with a class and a brightness on each line"

        def __init__(self, path: Path) -> None:
            self.name, self._lines = path.name, [line.split() for line in path.read_text().splitlines()]

        @classmethod
        def opened(cls, data: str, settings: Settings) -> Source | None:
            return TextSource(Path(data)) if data.endswith(".txt") else None

        def content_digest(self) -> str:
            return str(hash(tuple(map(tuple, self._lines))))

        def scan(self) -> Scan:
            return Scan(["a", "b"], [Item(str(k), line[0], "") for k, line in enumerate(self._lines)], [])

        def read(self, ref: str) -> np.ndarray:
            return np.full((4, 4, 3), int(self._lines[int(ref)][1]), np.uint8)

    (tmp_path / "cells.txt").write_text("a 10\nb 20\n")
    with open_source(str(tmp_path / "cells.txt"), Settings()) as source:
        assert [item.class_name for item in source.scan().items] == ["a", "b"]
        assert source.decode("1").pixels.max() == 20
        assert source.decode("1").notes == ()
    with pytest.raises(DataError, match=r"a \.txt with a class and a brightness on each line"):
        open_source("nothing", Settings())


def test_a_name_goes_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sample", "bloodmnist-mine"):
        folder(tmp_path / name, {"a/1.png": encoded(), "b/2.png": encoded()})
    assert isinstance(open_source("sample", Settings()), SampleSource)
    assert open_source("bloodmnist-mine", Settings()).scan().classes == ["a", "b"]


def test_drawn_cells_are_always_the_same_and_of_their_class() -> None:
    source = SampleSource()
    scan = source.scan()
    assert len(scan.classes) == 8
    assert len(scan.items) == 8 * 60
    first = {item.class_name: source.read(item.ref) for item in scan.items[::60]}
    again = {item.class_name: source.read(item.ref) for item in scan.items[::60]}
    for name, pixels in first.items():
        assert pixels.shape == (96, 96, 3)
        np.testing.assert_array_equal(pixels, again[name])
    distinct = {source.read(item.ref).tobytes() for item in scan.items[::7]}
    assert len(distinct) == len(scan.items[::7])


def test_every_kind_of_source_is_part_of_the_code_of_ingest() -> None:
    files = code_fingerprint("hemaflow.tasks.ingest.stage")
    for name in ("folders", "npz", "s3", "zips", "sample", "bloodmnist"):
        assert f"tasks/sources/kinds/{name}.py" in files
    assert "tasks/sources/bloodmnist_builder.py" in files
