"""What the folders of a source mean: which name classes, splits and folds.

    [wrapper/…]class/…/image
    [wrapper/…]split/class/…/image      split: train, val or test, or a common name of one
    [wrapper/…]class/split/…/image
    [wrapper/…]fold_0/class/…/image

Two spellings of one name in Unicode are one class. Where folders can be read in two ways, a finding says
which was taken; where neither is likely enough, DataError asks.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from hemaflow.infra.errors import DataError
from hemaflow.tasks.core.facts import Split
from hemaflow.tasks.sources.base import Finding, Item, Scan, require_classes
from hemaflow.tasks.sources.images import IMAGE_SUFFIXES

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
    "holdout": "test",
    "heldout": "test",
}
"""What a folder of a split is called, in lower case, without signs and without what may follow."""
SPLIT_ENDINGS = ("set", "sets", "data", "dataset", "split", "images", "imgs", "pictures")
"""What may follow the name of a split: `Training_Set`, `test-images`."""
_NUMBERED = re.compile(r"(.+?)[ _-]*(?:[A-D]|\d{1,2})")
"""Splits in several parts: `TestA` and `TestB` (Raabin-WBC, Scientific Reports 12, 2022), `train_1`."""
USUAL_SPLIT_NAMES = {"train", "val", "valid", "validation", "test"}
"""Names of splits that need no finding."""
_FOLD = re.compile(r"(?:k?fold|cv|split)[ _-]*(\d{1,3})", re.IGNORECASE)

Parts = tuple[str, ...]


class _Reading(NamedTuple):
    """How the folders below the wrapper are read."""

    class_at: int = 0
    """Which folder names the class, from 0."""
    split_at: int = -1
    """Which folder names the split; -1 for none."""
    fold_at: int = -1
    """Which folder names the fold; -1 for none."""
    findings: tuple[Finding, ...] = ()


class _Place(NamedTuple):
    """What the pictures of a folder are: the fields of Item that they share."""

    class_name: str
    split: Split | Literal[""]
    fold: int | None


def split_of(folder: str) -> Split | Literal[""]:
    """Return the split that a folder's name stands for; "" for none."""
    numbered = _NUMBERED.fullmatch(folder)
    for name in (folder, numbered[1] if numbered else ""):
        letters = re.sub(r"[\W_]+", "", name).casefold()
        for ending in ("", *SPLIT_ENDINGS):
            if letters.endswith(ending) and (split := SPLIT_NAMES.get(letters[: len(letters) - len(ending)])):
                return split
    return ""


def class_name(folder: str) -> str:
    """Return the name of the class of a folder: composed, as macOS and Linux write it differently."""
    return unicodedata.normalize("NFC", folder).strip() or folder


def scan_class_folders(
    files: Sequence[str], folders: Sequence[str], name: str, findings: Sequence[Finding] = ()
) -> Scan:
    """Tell classes, splits and folds from paths.

    Args:
        files: Paths of files, relative, in order.
        folders: Paths of folders; those without an image are empty classes.
        name: What the source is called.
        findings: What was found before.

    Raises:
        DataError: There is nothing to learn from, or the folders mean two things.
    """
    found = list(findings)
    hidden: dict[str, bool] = {}
    seen: list[str] = []
    for file in files:
        folder, _, last = file.rpartition("/")
        if folder not in hidden:
            hidden[folder] = any(map(_is_hidden, PurePosixPath(folder).parts))
        if hidden[folder] or _is_hidden(last):
            found.append(
                Finding("ignored-file", [file], "left out", "hidden, or made by an operating system")
            )
        elif last[last.rfind(".") :].lower() not in IMAGE_SUFFIXES:
            found.append(Finding("ignored-file", [file], "left out", "not named .jpg, .jpeg or .png"))
        elif not seen or seen[-1] != file:  # archives may hold a name twice
            seen.append(file)
    # What a picture is depends on its folder alone, and there are fewer folders than pictures.
    paths = {
        folder: PurePosixPath(folder).parts
        for folder in dict.fromkeys(file.rpartition("/")[0] for file in seen)
    }
    depth = _wrapper_depth(list(paths.values()))
    reading = _read([parts[depth:] for parts in paths.values() if len(parts) > depth], name)
    found += reading.findings
    places = _places(paths, depth, reading)
    items: list[Item] = []
    for file in seen:
        place = places.get(file.rpartition("/")[0])
        if place is None:
            found.append(Finding("ignored-file", [file], "left out", "in no folder of a class"))
        else:
            items.append(Item(file, *place))
    classes = {place.class_name for place in places.values()}
    level = depth + reading.class_at
    for folder in sorted(set(folders)):
        parts = PurePosixPath(folder).parts
        if len(parts) != level + 1 or any(map(_is_hidden, parts)):
            continue
        if class_name(parts[-1]) not in classes:
            reason = "no image in this folder: the class is left out"
            found.append(Finding("empty-class", [folder], "left out", reason))
    found += _spellings(paths[folder][level] for folder in places)
    return Scan(require_classes(sorted(classes), name, found), items, found)


def _places(paths: Mapping[str, Parts], depth: int, reading: _Reading) -> dict[str, _Place]:
    """Return what the pictures of each folder are; folders of no class are left out.

    Args:
        paths: The folders that hold pictures, each with its parts.
        depth: How many leading folders wrap all pictures.
        reading: What the folders below mean.
    """
    below = {folder: parts[depth:] for folder, parts in paths.items()}
    least = 1 + max(reading.class_at, reading.split_at, reading.fold_at)
    below = {folder: parts for folder, parts in below.items() if len(parts) >= least}
    splits: dict[str, Split | Literal[""]] = dict.fromkeys(below, "")
    if reading.split_at >= 0:
        splits = {folder: split_of(parts[reading.split_at]) for folder, parts in below.items()}
    if len(set(splits.values())) < 2:  # one split alone divides nothing
        splits = dict.fromkeys(below, "")
    folds: dict[str, int | None] = dict.fromkeys(below)
    if reading.fold_at >= 0:
        numbers = {folder: _fold_number(parts[reading.fold_at]) for folder, parts in below.items()}
        order = {number: place for place, number in enumerate(sorted(set(numbers.values())))}
        folds = {folder: order[number] for folder, number in numbers.items()}
    return {
        folder: _Place(sys.intern(class_name(parts[reading.class_at])), splits[folder], folds[folder])
        for folder, parts in below.items()
    }


def _read(paths: Sequence[Parts], name: str) -> _Reading:
    """Tell what the folders of images mean, given their paths below the wrapper, one folder at least."""
    deep = [parts for parts in paths if len(parts) > 1]
    tops, seconds = {parts[0] for parts in paths}, {parts[1] for parts in deep}
    split = {folder: split_of(folder) for folder in tops | seconds}
    splits = {top for top in tops if split[top]}
    is_folds = len(tops) > 1 and all(_FOLD.fullmatch(top) for top in tops)
    is_splits = splits == tops and len({split[top] for top in tops}) > 1
    if not deep and (is_folds or is_splits):
        raise DataError(
            "The folders are called like splits or folds, and hold no folders of classes.",
            expected="folders such as train/neutrophil and test/neutrophil, or a folder for each class",
            received=_listed(tops),
            where=name,
            remedy="Put the images of each class into a folder of its own. If these folders are classes, "
            "give them other names.",
        )
    if is_folds:
        _require_plain_folds(tops, seconds, name)
        return _Reading(class_at=1, fold_at=0)
    if is_splits or (deep and splits == tops and len(tops) > 1):
        return _Reading(class_at=1, split_at=0, findings=_unusual_splits(tops))
    if len({split[parts[0]] for parts in deep} - {""}) > 1:
        raise _mixed(splits, tops - splits, name)
    if len(deep) == len(paths) and len({split[second] for second in seconds} - {""}) > 1:
        if all(split[second] for second in seconds):
            return _Reading(class_at=0, split_at=1, findings=_unusual_splits(seconds))
    num_tops = Counter(second for _, second in {parts[:2] for parts in deep})
    shared = {second for second, num in num_tops.items() if num > 1}
    if len(shared) > 1:
        reason = (
            f"several of them hold the folders {_listed(shared)}; if those are the classes, put them at the "
            "top, or name the folders above them train, val and test"
        )
        return _Reading(findings=(Finding("ambiguous-folders", sorted(tops), "read as classes", reason),))
    return _Reading()


def _unusual_splits(folders: set[str]) -> tuple[Finding, ...]:
    if {folder.lower() for folder in folders} <= USUAL_SPLIT_NAMES:
        return ()
    meaning = ", ".join(f"{folder} is {split_of(folder)}" for folder in sorted(folders))
    reason = f"{meaning}; if they are classes, give them other names"
    return (Finding("split-folders", sorted(folders), "read as splits", reason),)


def _require_plain_folds(tops: set[str], seconds: set[str], name: str) -> None:
    """Raise DataError where the folders of folds have no single meaning."""
    if len({_fold_number(top) for top in tops}) < len(tops):
        raise DataError(
            "Two folders are of the same fold.",
            expected="folders such as fold_0, fold_1, …",
            received=_listed(tops),
            where=name,
            remedy="Rename one of them.",
        )
    if any(split_of(second) for second in seconds):
        raise DataError(
            "The folders of folds hold folders of splits, so that one fold must be chosen.",
            expected="one fold, or folds that hold the folders of the classes",
            received=f"{_listed(tops)}, each with {_listed(seconds)}",
            where=name,
            remedy=f"Give the folder of one fold with --data, such as …/{min(tops)}.",
        )


def _mixed(splits: set[str], others: set[str], name: str) -> DataError:
    return DataError(
        "Some folders are splits and others are not.",
        expected="folders of splits only (train, val, test), or folders of classes only",
        received=f"splits {_listed(splits)}, others {_listed(others)}",
        where=name,
        remedy="Move the others out of this folder; or, if all of them are classes, rename those that are "
        "called like splits.",
    )


def _spellings(folders: Iterable[str]) -> list[Finding]:
    """Return a finding for each class whose name the source spells in several ways."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        spelled[class_name(folder)].add(folder)
    reason = "the same name in several spellings of Unicode, or with spaces around it"
    return [
        Finding("class-spelling", sorted(ways), f"one class, {name}", reason)
        for name, ways in sorted(spelled.items())
        if len(ways) > 1
    ]


def _listed(names: Iterable[str], most: int = 6) -> str:
    ordered = [name if name.isprintable() else repr(name) for name in sorted(names)]
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def _fold_number(folder: str) -> int:
    found = _FOLD.fullmatch(folder)
    return int(found[1]) if found else 0


def _is_hidden(name: str) -> bool:
    """Return whether a file or folder of that name is hidden, or made by an operating system."""
    return name.startswith((".", "__MACOSX")) or name in ("Thumbs.db", "desktop.ini")


def _wrapper_depth(folders: Sequence[Parts]) -> int:
    """Return how many leading folders all images share before the classes begin.

    Images that lie in a wrapper itself are of no class, and do not count.

    Args:
        folders: The folders that hold images.
    """
    depth = 0
    while True:
        folders = [parts for parts in folders if len(parts) > depth]
        if not folders or len({parts[depth] for parts in folders}) > 1 or min(map(len, folders)) < depth + 2:
            return depth
        depth += 1
