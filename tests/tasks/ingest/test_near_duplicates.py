from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hemaflow.tasks.ingest.cleaning import perceptual_hash
from hemaflow.tasks.ingest.config import IngestConfig
from hemaflow.tasks.ingest.covering_masks import HASH_BITS, Part, divided, masks
from hemaflow.tasks.ingest.near_duplicates import group_distinct, near_groups, plan

BITS = IngestConfig().near_duplicate_bits


def of_all_pairs(hashes: NDArray[np.uint64], max_bits: int) -> list[int]:
    """The groups by their definition."""
    distance = np.zeros((len(hashes), len(hashes)), np.uint16)
    for word in hashes.T:
        distance += np.bitwise_count(word[:, None] ^ word[None])
    _, component = connected_components(coo_array(distance <= max_bits), directed=False)
    _, first = np.unique(component, return_index=True)
    return [int(index) for index in first[component]]


def flipped(hashed: NDArray[np.uint64], bits: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint64]:
    changed = np.unpackbits(hashed.view(np.uint8))
    changed[bits] ^= 1
    return np.packbits(changed).view(np.uint64)


def drawn(num: int, max_bits: int, seed: int = 0) -> NDArray[np.uint64]:
    """Random hashes: a tenth has a copy 0 to max_bits + 2 bits away, a tenth is a cluster, 50 are equal."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, (num, 4), np.uint64)
    for place in range(num // 10):
        apart = rng.integers(0, max_bits + 3)
        hashes[place] = flipped(hashes[num - 1 - place], rng.permutation(HASH_BITS)[:apart])
        hashes[num // 5 + place] = flipped(
            hashes[num // 5], rng.permutation(HASH_BITS)[: rng.integers(0, 30)]
        )
    hashes[num // 2 : num // 2 + 50] = hashes[num // 2]
    return hashes[rng.permutation(num)]


@given(st.integers(1, 64), st.integers(0, 6), st.data())
def test_one_mask_has_none_of_the_bits_in_which_two_hashes_differ(
    num_bits: int, radius: int, data: st.DataObject
) -> None:
    bits = data.draw(st.sets(st.integers(0, num_bits - 1), max_size=radius))
    difference = np.uint64(sum(1 << bit for bit in bits))
    below = masks(Part(num_bits, radius))
    assert len(below) == Part(num_bits, radius).num_masks
    assert (below & difference == 0).any()


@given(st.integers(4, 60), st.integers(0, HASH_BITS))
def test_the_parts_have_all_bits_and_one_of_them_has_few_differences(num_parts: int, max_bits: int) -> None:
    parts = divided(num_parts, max_bits)
    assert sum(part.num_bits for part in parts) == HASH_BITS
    assert sum(part.radius + 1 for part in parts) > max_bits


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 255), max_size=30)), max_size=25),
    st.integers(0, 24),
    st.integers(4, 12),
)
def test_groups_are_what_is_connected(
    pictures: list[tuple[int, list[int]]], max_bits: int, num_parts: int
) -> None:
    bases = np.random.default_rng(1).integers(0, 2**64, (3, 4), np.uint64)
    hashes = np.array([flipped(bases[base], bits) for base, bits in pictures], np.uint64).reshape(-1, 4)
    groups = near_groups(hashes, max_bits)
    assert groups == (of_all_pairs(hashes, max_bits) if pictures else [])
    distinct = np.unique(hashes, axis=0)
    if len(distinct):
        parts = divided(num_parts, max_bits)
        assert group_distinct(distinct, parts, max_bits).tolist() == of_all_pairs(distinct, max_bits)


@pytest.mark.parametrize("max_bits", [0, 3, 40, 64, 256])
def test_groups_of_many_are_those_of_all_pairs(max_bits: int) -> None:
    hashes = drawn(1200, min(max_bits, 60))
    assert near_groups(hashes, max_bits) == of_all_pairs(hashes, max_bits)


def test_groups_below_masks_are_those_of_all_pairs() -> None:
    hashes = np.unique(drawn(5000, BITS), axis=0)
    groups = group_distinct(hashes, divided(9, BITS), BITS)
    assert groups.tolist() == of_all_pairs(hashes, BITS)
    assert len(set(groups.tolist())) < len(hashes) - 500


def test_many_are_compared_below_masks_and_those_that_are_all_alike_in_blocks() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, (100_000, 4), np.uint64)
    assert plan(hashes, BITS)
    assert plan(hashes, 3) == divided(4, 3)
    assert plan(hashes, 100) == []
    hashes[:, 1:] &= np.uint64(1)
    assert plan(np.unique(hashes, axis=0), 20) == []


def test_groups_of_real_cells_are_those_of_all_pairs(shared_dir: Path) -> None:
    hashes = []
    with zipfile.ZipFile(shared_dir / "data" / "pbc96_train.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for name in names[::20]:
            hashes.append(perceptual_hash(np.asarray(Image.open(io.BytesIO(archive.read(name))))))
    distinct = np.unique(hashes, axis=0)
    for max_bits in (BITS, 70):  # at 70, some strangers are neighbours
        groups = group_distinct(distinct, divided(16, max_bits), max_bits)
        assert groups.tolist() == of_all_pairs(distinct, max_bits)
    assert len(set(groups.tolist())) < len(groups)
