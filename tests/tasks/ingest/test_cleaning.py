from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hemaflow.tasks.core.classes import PBC_CLASSES as CLASSES
from hemaflow.tasks.ingest.cleaning import Cleaned, Hashed, clean, perceptual_hash
from hemaflow.tasks.ingest.config import IngestConfig
from hemaflow.tasks.sources.sample_cells import draw_cell

BITS = IngestConfig().near_duplicate_bits


def picture(ref: str, sha256: str, class_name: str = "a", split: str = "", bits: int = 0) -> Hashed:
    """A picture whose perceptual hash follows from its SHA-256, `bits` bits away."""
    rng = np.random.default_rng(list(sha256.encode()))
    words = rng.integers(0, 2**63, 4).astype(np.uint64)
    words[0] ^= np.uint64((1 << bits) - 1)
    return Hashed(ref, class_name, split, sha256, words)


def cleaned(*pictures: Hashed) -> Cleaned:
    return clean(pictures, contaminant_copies=5, near_duplicate_bits=BITS)


def findings(result: Cleaned) -> list[tuple[str, list[str]]]:
    return [(finding.kind, finding.items) for finding in result.findings]


def test_copies_are_dropped_but_one() -> None:
    result = cleaned(picture("1", "x"), picture("2", "y"), picture("3", "x"))
    assert [kept.ref for kept in result.kept] == ["1", "2"]
    assert findings(result) == [("exact-duplicate", ["3"])]
    assert "1" in result.findings[0].reason


def test_a_copy_in_the_test_split_is_the_one_that_stays() -> None:
    result = cleaned(picture("1", "x", split="train"), picture("2", "x", split="test"))
    assert [kept.ref for kept in result.kept] == ["2"]


def test_one_picture_under_two_labels_is_dropped_whole() -> None:
    result = cleaned(picture("1", "x", "a"), picture("2", "y"), picture("3", "x", "b"))
    assert [kept.ref for kept in result.kept] == ["2"]
    assert findings(result) == [("conflicting-label", ["1", "3"])]
    assert "1 as a, 3 as b" in result.findings[0].reason


def test_what_comes_too_often_is_no_cell() -> None:
    many = [picture(str(k), "x", "ab"[k % 2]) for k in range(5)]
    result = cleaned(*many, picture("cell", "y"))
    assert [kept.ref for kept in result.kept] == ["cell"]
    assert findings(result) == [("contaminant", ["0", "1", "2", "3", "4"])]


def test_near_duplicates_are_kept_in_one_group() -> None:
    near = picture("2", "x", bits=BITS)._replace(sha256="near")
    far = picture("3", "x", bits=BITS + 1)._replace(sha256="far")
    result = cleaned(picture("1", "x"), near)
    assert result.groups[0] == result.groups[1]
    assert findings(result) == [("near-duplicate", ["1", "2"])]
    result = cleaned(picture("1", "x"), far)
    assert result.groups[0] != result.groups[1]
    assert findings(result) == []


def test_nothing_is_left_of_nothing() -> None:
    assert cleaned() == ([], [], [])


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_copy_in_other_bytes_is_a_near_duplicate_and_another_cell_is_none(class_name: str) -> None:
    def distance(one: np.ndarray, other: np.ndarray) -> int:
        return int(np.bitwise_count(perceptual_hash(one) ^ perceptual_hash(other)).sum())

    label = CLASSES.index(class_name)
    cell = draw_cell(label, 0)
    buffer = io.BytesIO()
    Image.fromarray(cell).save(buffer, "JPEG", quality=80)
    recompressed = np.asarray(Image.open(io.BytesIO(buffer.getvalue())))
    brighter = np.clip(cell.astype(int) + 6, 0, 255).astype(np.uint8)
    assert distance(cell, recompressed) <= BITS
    assert distance(cell, brighter) <= BITS
    assert min(distance(cell, draw_cell(label, index)) for index in range(1, 10)) > BITS
