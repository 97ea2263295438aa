"""What folders mean: classes, splits, folds; and what is asked or told where they could mean two things."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hemaflow.infra.errors import DataError
from hemaflow.infra.settings import Settings
from hemaflow.tasks.sources.base import Scan
from hemaflow.tasks.sources.kinds.folders import FolderSource
from hemaflow.tasks.sources.layout import scan_class_folders, split_of
from hemaflow.tasks.sources.registry import open_source


def scan(*files: str) -> Scan:
    return scan_class_folders(sorted(files), [], "cells")


def grid(tops: Sequence[str], seconds: Sequence[str] = ("a", "b")) -> Scan:
    return scan(*(f"{top}/{second}/{k}.png" for top in tops for second in seconds for k in range(2)))


def kinds(found: Scan) -> list[str]:
    return [finding.kind for finding in found.findings]


def splits(found: Scan) -> dict[str, str]:
    """The split of each top folder below data/."""
    return {item.ref.removeprefix("data/").split("/")[0]: item.split for item in found.items}


# Splits


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        *[
            (name, "train")
            for name in ("train", "TRAIN", "Training", "training_set", "Train-Data", "trainset")
        ],
        *[(name, "train") for name in ("train images", "TrainImages", "train_1", "Train2", "training.data")],
        *[(name, "val") for name in ("val", "Valid", "VALIDATION", "validation_split", "dev", "Evaluation")],
        *[
            (name, "test")
            for name in ("test", "Testing", "TestA", "Test_B", "test-set", "hold_out", "TESTDATA")
        ],
        *[(name, "") for name in ("testis", "trainer", "neutrophil", "set", "data", "A", "1", "", "contest")],
        *[(name, "") for name in ("testaments", "valve", "devil", "Testa")],
    ],
)
def test_common_names_of_splits(folder: str, split: str) -> None:
    assert split_of(folder) == split


@pytest.mark.parametrize(
    "tops",
    [
        ("Training", "Testing", "Validation"),
        ("TRAIN", "VAL", "TEST"),
        ("train", "dev", "holdout"),
        ("Train_Set", "valid-images", "TestA"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "data/", "data/set/"])
def test_folders_called_like_splits_are_splits_and_that_is_told(tops: tuple[str, ...], wrapper: str) -> None:
    found = grid([wrapper + top for top in tops])
    assert found.classes == ["a", "b"]
    assert len(found.items) == 12
    assert {item.split for item in found.items} == {"train", "val", "test"}
    for item in found.items:
        assert item.split == split_of(item.ref.removeprefix(wrapper).split("/")[0])
    told = [finding for finding in found.findings if finding.kind == "split-folders"]
    usual = all(top.lower() in ("train", "val", "test") for top in tops)
    assert [finding.items for finding in told] == ([] if usual else [sorted(tops)])


def test_splits_below_the_classes_are_splits() -> None:
    found = grid(["neutrophil", "platelet"], ["Training", "Testing"])
    assert found.classes == ["neutrophil", "platelet"]
    assert {item.ref.split("/")[1]: item.split for item in found.items} == {
        "Training": "train",
        "Testing": "test",
    }
    assert kinds(found) == ["split-folders"]


def test_pictures_beside_the_classes_do_not_hide_the_splits() -> None:
    found = scan("cover.png", "train/cover.png", *(f"{s}/{c}/1.png" for s in ("train", "test") for c in "ab"))
    assert found.classes == ["a", "b"]
    assert splits(found) == {"train": "train", "test": "test"}
    assert [finding.items for finding in found.findings] == [["cover.png"], ["train/cover.png"]]


def test_an_unlabelled_test_split_is_left_out_and_the_rest_is_divided() -> None:
    found = scan("train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png")
    assert found.classes == ["a", "b"]
    assert {item.split for item in found.items} == {""}
    assert [finding.items for finding in found.findings] == [["test/1.png"], ["test/2.png"]]


def test_two_parts_of_one_split_are_not_classes() -> None:
    found = grid(["train_1", "train_2"])
    assert found.classes == ["a", "b"]
    assert {item.split for item in found.items} == {""}
    assert kinds(found) == ["split-folders"]


@pytest.mark.parametrize(
    ("tops", "message"),
    [
        (("train", "test", "extra"), r"Some folders are splits(.|\n)*splits test, train, others extra"),
        (("Training", "Validation", "neutrophil"), "Some folders are splits"),
    ],
)
def test_splits_beside_other_folders_are_asked_about(tops: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        grid(tops)


@pytest.mark.parametrize("tops", [("train", "test"), ("Training", "Testing", "Val"), ("fold_0", "fold_1")])
def test_splits_and_folds_without_classes_are_asked_about(tops: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="hold no folders of classes"):
        scan(*(f"{top}/{k}.png" for top in tops for k in range(3)))


def test_one_class_that_is_called_like_a_split_is_a_class() -> None:
    assert scan("control/1.png", "test/1.png").classes == ["control", "test"]
    assert grid(["control", "test"], ["monday", "tuesday"]).classes == ["control", "test"]


def test_folders_that_could_be_patients_or_classes_are_told() -> None:
    found = grid(["patient 1", "patient 2"], ["lymphocyte", "monocyte"])
    assert found.classes == ["patient 1", "patient 2"]
    (finding,) = found.findings
    assert (finding.kind, finding.action) == ("ambiguous-folders", "read as classes")
    assert "hold the folders lymphocyte, monocyte; if those are the classes" in finding.reason


# Folds


@pytest.mark.parametrize(
    "tops",
    [
        ("fold_0", "fold_1", "fold_2"),
        ("Fold1", "Fold2", "Fold10"),
        ("kfold-3", "kfold-4"),
        ("split0", "split1"),
        ("CV 1", "CV 2"),
    ],
)
def test_folders_of_folds_are_folds_in_the_order_of_their_numbers(tops: tuple[str, ...]) -> None:
    found = grid([f"data/{top}" for top in tops])
    assert found.classes == ["a", "b"]
    assert {item.ref.split("/")[1]: item.fold for item in found.items} == {t: k for k, t in enumerate(tops)}
    assert {item.split for item in found.items} == {""}


def test_folds_of_splits_are_asked_about() -> None:
    files = [f"fold_{k}/{s}/{c}/1.png" for k in range(2) for s in ("train", "test") for c in "ab"]
    with pytest.raises(DataError, match=r"one fold must be chosen(.|\n)*--data, such as …/fold_0"):
        scan(*files)


def test_two_folders_of_one_fold_are_refused() -> None:
    with pytest.raises(DataError, match="Two folders are of the same fold"):
        grid(["fold_1", "fold_01"])


# Names


def test_two_spellings_of_a_class_are_one_class() -> None:
    composed, apart = (unicodedata.normalize(form, "Blutkörper") for form in ("NFC", "NFD"))
    for tops in ((), ("train", "test")):
        folders = [composed, apart, "b", "b "]
        found = grid(tops, folders) if tops else scan(*(f"{c}/{k}.png" for k, c in enumerate(folders)))
        assert found.classes == [composed, "b"] or found.classes == ["Blutkörper", "b"]
        assert len(found.items) == len(folders) * (2 * len(tops) or 1)
        spelled = [finding.items for finding in found.findings if finding.kind == "class-spelling"]
        assert spelled == [sorted([composed, apart]), ["b", "b "]]


NAMES = st.sampled_from(
    [
        "train",
        "Testing",
        "val",
        "fold_0",
        "fold_1",
        "a",
        "b",
        "c ",
        "B\u0308",
        "\u1e02",
        "x.png",
        "deep",
        "...",
    ]
)


@given(
    st.sets(
        st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/".join([*parts, "1.png"])), max_size=9
    )
)
def test_every_file_is_an_item_or_found_or_the_whole_is_refused(files: set[str]) -> None:
    try:
        found = scan(*files)
    except DataError as error:
        assert error.remedy  # noqa: PT017 (either is right)
        return
    listed = {item for finding in found.findings for item in finding.items if item in files}
    assert {item.ref for item in found.items} | listed == files
    assert not {item.ref for item in found.items} & listed
    assert len(found.classes) >= 2
    assert len({unicodedata.normalize("NFC", name) for name in found.classes}) == len(found.classes)
    assert len({bool(item.split) for item in found.items}) == 1
    assert len({item.fold is None for item in found.items}) == 1


# Links and odd names on a disk


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_links_within_the_data_are_read(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "pool/c/1.png"):
        picture(tmp_path / "cells" / name)
    (tmp_path / "cells" / "b" / "2.png").symlink_to("../a/1.png")
    (tmp_path / "cells" / "c").symlink_to("pool/c")
    (tmp_path / "cells" / "c" / "up").symlink_to("../..")  # a circle
    (tmp_path / "cells" / "a" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "cells" / "a" / "self.png").symlink_to("self.png")
    found = FolderSource(tmp_path / "cells").scan()
    assert [item.ref for item in found.items] == ["a/1.png", "b/1.png", "b/2.png", "c/1.png", "pool/c/1.png"]
    told = {item: finding.reason for finding in found.findings for item in finding.items}
    assert told == {
        "a/gone.png": "a link that leads nowhere",
        "a/self.png": "a link that leads nowhere",
        "c/up": "a link back to a folder that holds it",
        "pool/c/up": "a link back to a folder that holds it",
    }


def test_links_to_folders_within_linked_folders_end(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / name / f"{name}.png")
    for name in "abc":
        for other in set("abc") - {name}:
            (tmp_path / name / f"to_{other}").symlink_to(f"../{other}")
    found = FolderSource(tmp_path).scan()
    assert len(found.items) == 9  # each folder, and both others through it
    assert {finding.reason for finding in found.findings} >= {"a link to a folder within a linked folder"}


def test_links_out_of_the_data_are_told_and_followed_where_that_is_allowed(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / "pool" / name / "1.png")
        (tmp_path / "cells" / name).mkdir(parents=True)
        (tmp_path / "cells" / name / "1.png").symlink_to(tmp_path / "pool" / name / "1.png")
    data = str(tmp_path / "cells")
    with pytest.raises(DataError, match=r"2 links were left out, such as 'a/1\.png'(.|\n)*HEMAFLOW_LINKS_TO"):
        open_source(data, Settings()).scan()
    allowed = Settings(links_to=f"/nowhere:{tmp_path / 'pool'}")
    found = open_source(data, allowed).scan()
    assert [item.ref for item in found.items] == ["a/1.png", "b/1.png"]
    assert found.findings == []
    digest = open_source(data, allowed).content_digest()
    assert open_source(data, Settings()).content_digest() != digest
    Image.new("RGB", (4, 4), "red").save(tmp_path / "pool" / "a" / "1.png")
    assert open_source(data, allowed).content_digest() != digest


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / name / "1.png")
    odd = (tmp_path / "a" / "x").as_posix().encode() + b"\xff.png"
    with open(odd, "wb") as file:
        file.write(b"")
    source = FolderSource(tmp_path)
    assert len(source.content_digest()) == 64
    (finding,) = source.scan().findings
    assert (finding.kind, finding.items) == ("unreadable-name", ["a/x\\xff.png"])
