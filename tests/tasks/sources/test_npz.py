"""Arrays of an npz: layouts and names of classes, and files that are damaged or lie."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.tasks.core.classes import PBC_CLASSES
from hemaflow.tasks.sources.base import Scan, Source
from hemaflow.tasks.sources.registry import open_source


def opened(path: Path) -> Source:
    return open_source(str(path), Settings())


def scanned(path: Path) -> Scan:
    with opened(path) as source:
        return source.scan()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


IMAGES = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 2, 7, 1, 0], np.uint8)


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_an_npz_is_rows_with_labels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with opened(npz(tmp_path / "set.npz", images=IMAGES, labels=LABELS.reshape(shape))) as source:
        scan = source.scan()
        assert scan.classes == ["basophil", "eosinophil", "erythroblast", "platelet"]
        assert [item.class_name for item in scan.items][:4] == scan.classes
        for row in range(6):
            np.testing.assert_array_equal(source.read(scan.items[row].ref), IMAGES[row])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, r"holds no 'labels'(.|\n)*Received: images"),
        ({"labels": LABELS}, "holds no 'images'"),
        ({"images": IMAGES, "labels": LABELS + 7}, r"out of range(.|\n)*row 1: 8"),
        ({"images": IMAGES, "labels": LABELS.astype(np.int8) - 1}, r"row 0: -1"),
        ({"images": IMAGES, "labels": LABELS[:5]}, r"labels cannot be used(.|\n)*\(6,\) or \(6, 1\)"),
        ({"images": IMAGES, "labels": LABELS.astype(np.float32)}, "labels cannot be used"),
        ({"images": IMAGES[..., :2], "labels": LABELS}, r"\(N, H, W, 3\)"),
        ({"images": IMAGES[..., None], "labels": LABELS}, r"\(N, H, W, 3\)"),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, "uint8"),
        ({"images": IMAGES, "labels": np.zeros(6, np.uint8)}, "one class, 'basophil'"),
        ({"images": IMAGES, "labels": np.array([object()] * 6)}, "Python objects"),
        ({"images": np.asfortranarray(IMAGES), "labels": LABELS}, "Fortran order"),
        ({}, "no arrays"),
    ],
)
def test_an_npz_that_cannot_be_used_says_why(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        scanned(npz(tmp_path / "set.npz", **arrays))


def test_an_npz_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 96, 96, 3)}
    )
    labels = io.BytesIO()
    np.save(labels, LABELS)
    files = {"images.npy": header.getvalue(), "labels.npy": labels.getvalue()}
    with pytest.raises(DataError, match="not what it declares"):
        opened(zipped(tmp_path / "set.npz", files))


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


def test_a_pickle_in_an_npz_is_never_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"images.npy": pickle.dumps(Evil()), "labels.npy": pickle.dumps(Evil())}
    with pytest.raises(DataError, match="cannot be read"):
        opened(zipped(tmp_path / "set.npz", files))
    assert capsys.readouterr().out == ""


def test_a_cut_off_npz_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cut off"):
        opened(path)


# Names of classes


def names(scan: Scan) -> list[str]:
    return [item.class_name for item in scan.items]


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
@pytest.mark.parametrize("kind", ["U", "S"])
def test_labels_may_be_names(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    labels = np.array(["mono", "baso", "baso", "Blutko\u0308rper", "mono", " mono"])
    stored = labels if kind == "U" else np.array([name.encode() for name in labels])
    scan = scanned(npz(tmp_path / "set.npz", images=IMAGES, labels=stored.reshape(shape)))
    assert scan.classes == ["Blutk\u00f6rper", "baso", "mono"]
    assert names(scan) == ["mono", "baso", "baso", "Blutk\u00f6rper", "mono", "mono"]
    assert scan.findings == []


@pytest.mark.parametrize("kind", ["U", "S"])
def test_the_file_may_name_its_classes(tmp_path: Path, kind: str) -> None:
    classes = np.array(["z", "y", "x", "w", "v", "u", "t", "s"], kind)
    scan = scanned(npz(tmp_path / "set.npz", images=IMAGES, labels=LABELS, classes=classes))
    assert names(scan) == ["z", "y", "x", "s", "y", "z"]
    assert scan.classes == ["s", "x", "y", "z"]
    assert scan.findings == []


def test_names_that_are_assumed_are_told(tmp_path: Path) -> None:
    scan = scanned(npz(tmp_path / "set.npz", images=IMAGES, labels=LABELS % 2))
    assert scan.classes == ["basophil", "eosinophil"]
    (finding,) = scan.findings
    assert finding.kind == "assumed-class-names"
    assert finding.action.startswith("0 is basophil, 1 is eosinophil, ")
    assert "save it with an array classes=" in finding.reason


TEXT = np.array(["a", "b"] * 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"labels": LABELS, "classes": np.array(["a", "b"])},
            r"2 labels are out of range(.|\n)*0\.\.1: a, b",
        ),
        ({"labels": LABELS % 2, "classes": np.arange(2)}, r"'classes' cannot be used(.|\n)*Received: int64"),
        ({"labels": LABELS % 2, "classes": np.array([["a", "b"]])}, "'classes' cannot be used"),
        ({"labels": LABELS % 2, "classes": np.array(["a", "b", "a "])}, "holds a name twice"),
        ({"labels": LABELS % 2, "classes": np.array(["a", "b"], object)}, "Python objects"),
        ({"labels": LABELS % 2, "classes": np.array(["a", ""])}, r"'classes' has an empty name(.|\n)*row 1"),
        ({"labels": np.array(["a", "b", "a", " ", "a", "b"])}, r"'labels' has an empty name(.|\n)*row 3"),
        ({"labels": np.array([b"a", b"\xff"] * 3)}, "'labels' is no text"),
        ({"labels": TEXT, "classes": np.array(["a", "c"])}, r"3 labels are out of range(.|\n)*row 1: b"),
        ({"labels": np.array(["a" * 2000] * 6)}, "labels cannot be used"),
        ({"labels": np.zeros((6, 14), np.uint8)}, "do not give each image one class"),
        ({"labels": np.full(6, 2**63, np.uint64)}, "6 labels are out of range"),
    ],
)
def test_names_that_cannot_be_used_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        scanned(npz(tmp_path / "set.npz", images=IMAGES, **arrays))


# MedMNIST


def medmnist(channels: str, num_classes: int, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = dict(more)
    for split, num in (("train", 20), ("val", 11), ("test", 12)):
        shape = (num, 28, 28, 3) if channels == "colour" else (num, 28, 28)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, np.uint8)
        arrays[f"{split}_labels"] = (np.arange(num, dtype=np.uint8) % num_classes)[:, None]
    return arrays


@pytest.mark.parametrize("channels", ["colour", "grey"])
@pytest.mark.parametrize("num_classes", [2, 9, 11])
def test_a_data_set_of_medmnist_is_read_with_its_split(
    tmp_path: Path, channels: str, num_classes: int
) -> None:
    arrays = medmnist(channels, num_classes)
    with opened(npz(tmp_path / "organamnist.npz", **arrays)) as source:
        scan = source.scan()
        assert [item.split for item in scan.items] == ["train"] * 20 + ["val"] * 11 + ["test"] * 12
        digits = 2 if num_classes > 10 else 1
        assert scan.classes == [f"class {label:0{digits}d}" for label in range(num_classes)]
        assert [finding.kind for finding in scan.findings] == ["assumed-class-names"]
        for item in scan.items:
            row = int(item.ref.rpartition("/")[2])
            assert item.class_name == scan.classes[row % num_classes]
            pixels = arrays[f"{item.split}_images"][row]
            expected = pixels if channels == "colour" else np.stack([pixels] * 3, axis=-1)
            np.testing.assert_array_equal(source.read(item.ref), expected)


def test_bloodmnist_has_its_names_and_others_may_give_theirs(tmp_path: Path) -> None:
    assert scanned(npz(tmp_path / "bloodmnist_64.npz", **medmnist("colour", 8))).classes == list(PBC_CLASSES)
    named = medmnist("grey", 3, classes=np.array(["x", "y", "z"]))
    assert scanned(npz(tmp_path / "set.npz", **named)).classes == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_labels": None}, "holds no 'val_labels'"),
        ({"test_images": None}, "holds no 'test_images'"),
        ({"train_images": np.zeros((20, 28, 28, 28), np.uint8)}, "train_images cannot be used"),
        ({"test_labels": np.zeros((12, 14), np.uint8)}, "test_labels cannot be used"),
        ({"val_labels": np.full(11, -1)}, "11 val_labels are out of range"),
    ],
)
def test_a_data_set_of_medmnist_that_cannot_be_used_says_why(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arrays = {name: array for name, array in (medmnist("colour", 3) | change).items() if array is not None}
    with pytest.raises(DataError, match=message):
        scanned(npz(tmp_path / "set.npz", **arrays))


def test_an_empty_split_is_none(tmp_path: Path) -> None:
    arrays = medmnist("colour", 3) | {
        "val_images": np.zeros((0, 28, 28, 3), np.uint8),
        "val_labels": np.zeros(0, int),
    }
    assert {item.split for item in scanned(npz(tmp_path / "set.npz", **arrays)).items} == {"train", "test"}


# Headers


def with_header(header: str, body: bytes = b"") -> bytes:
    """An array in numpy's format with any header."""
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + body


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ("(" * 9000, b"", "the header of an array cannot be read"),
        ("[" * 90 + "]" * 90, b"", "the header of an array cannot be read"),
        (
            "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 8, 8, 3)}",
            b"x" * 192,
            r"the shape \(True",
        ),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-6, 8, 8, 3)}", b"", r"the shape \(-6"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (6, 0, 8, 3)}", b"", "holds nothing"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (6, 8, 8, 0)}", b"", "holds nothing"),
        (
            "{'descr': '|V0', 'fortran_order': False, 'shape': (6, 8, 8, 3)}",
            b"",
            "holds nothing|cannot be read",
        ),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (6,)}", b"", "holds nothing|cannot be read"),
        ("{'descr': ('|u1', (8, 8, 3)), 'fortran_order': False, 'shape': (6,)}", b"x" * 1152, "cannot be"),
        (
            "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (6, 8, 8, 3)}",
            b"x" * 1152,
            "cannot be",
        ),
        ("{'descr': 'nonsense', 'fortran_order': False, 'shape': (6,)}", b"", "cannot be read"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': 6}", b"", "cannot be read"),
        ("{'descr': '|u1', 'fortran_order': False}", b"", "cannot be read"),
        ("", b"", "cannot be read"),
        ("\0", b"", "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["images", "labels"])
def test_a_header_that_lies_is_one_clear_error(
    tmp_path: Path, header: str, body: bytes, message: str, name: str
) -> None:
    files = {
        "images.npy": saved(IMAGES),
        "labels.npy": saved(LABELS),
        f"{name}.npy": with_header(header, body),
    }
    with pytest.raises(DataError, match=message if name == "images" else ".") as caught:
        scanned(zipped(tmp_path / "set.npz", files))
    assert caught.value.exit_code == 2


def test_nothing_but_data_errors_is_raised_of_damaged_files(tmp_path: Path) -> None:
    """Bytes of headers, data and the archive itself are changed, removed and added."""
    rng = random.Random(0)
    rows = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    arrays = [
        {"images.npy": saved(rows), "labels.npy": saved(LABELS)},
        {"images.npy": saved(rows), "labels.npy": saved(TEXT), "classes.npy": saved(np.array(["a", "b"]))},
        {
            f"{split}_{name}.npy": data
            for split in ("train", "test")
            for name, data in (("images", saved(rows)), ("labels", saved(LABELS[:, None])))
        },
    ]
    path, read = tmp_path / "set.npz", 0
    for number in range(1200):
        files = dict(rng.choice(arrays))
        name = rng.choice(list(files))
        damage_array = number % 2
        if damage_array:
            files[name] = damaged(files[name], rng, 140)
        zipped(path, files)
        if not damage_array:
            path.write_bytes(damaged(path.read_bytes(), rng, 10**6))
        try:
            with opened(path) as source:
                for item in source.scan().items:
                    source.read(item.ref)
        except DataError:
            continue
        read += 1
    assert read > 10


def damaged(data: bytes, rng: random.Random, within: int) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(min(len(changed), within))
        match rng.choice("cccda"):
            case "c":
                changed[place] = rng.choice([rng.randrange(256), *b"0123456789()[]{}'<|,-"])
            case "d":
                del changed[place : place + rng.randint(1, 4)]
            case _:
                changed[place:place] = rng.randbytes(rng.randint(1, 4))
    return bytes(changed)
