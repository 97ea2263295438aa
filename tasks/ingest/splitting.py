"""The split: stratified by class, seeded, and without dividing a group of near duplicates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from hemaflow.tasks.core.facts import Split

Part = TypeVar("Part", bound=Hashable)


def split_groups(
    labels: Sequence[int], groups: Sequence[int], *, val_share: float, test_share: float, seed: int
) -> list[Split]:
    """Return the split of each picture.

    Shuffles the groups of each class (a group has the class of its first picture). Then assigns each group,
    one after another, to the split that is furthest below its share of that class.

    Args:
        labels: The class of each picture, from 0.
        groups: The group of each picture; a group is never divided.
        val_share: Share of val, in 0..1.
        test_share: Share of test, in 0..1.
        seed: Random seed of the shuffle.
    """
    shares: dict[Split, float] = {
        "test": test_share,
        "val": val_share,
        "train": 1.0 - val_share - test_share,
    }
    return _divide(labels, groups, shares, seed)


def split_fold(
    labels: Sequence[int],
    groups: Sequence[int],
    *,
    num_folds: int,
    fold: int,
    val_share: float,
    seed: int,
) -> list[Split]:
    """Return the split of each picture in a cross-validation: one fold is test, of the rest some is val.

    The folds have equal shares, and each picture is in the test split of exactly one fold.

    Args:
        labels: The class of each picture, from 0.
        groups: The group of each picture; a group is never divided.
        num_folds: The number of folds, from 2.
        fold: The fold that is the test split, from 0.
        val_share: Share of val among all pictures, in 0..1 − 1/num_folds.
        seed: Random seed of the shuffles. All folds of one division have the same.
    """
    folds = _divide(labels, groups, dict.fromkeys(range(num_folds), 1.0 / num_folds), seed)
    is_test = [own == fold for own in folds]
    return split_rest(labels, groups, is_test, num_folds=num_folds, val_share=val_share, seed=seed)


def split_rest(
    labels: Sequence[int],
    groups: Sequence[int],
    is_test: Sequence[bool],
    *,
    num_folds: int,
    val_share: float,
    seed: int,
) -> list[Split]:
    """Return the split of each picture where one fold is test already, of the rest some is val.

    Args:
        labels: The class of each picture, from 0.
        groups: The group of each picture; among the rest, a group is never divided.
        is_test: Whether each picture is of the fold that is test.
        num_folds: The number of folds, from 2.
        val_share: Share of val among all pictures, in 0..1 − 1/num_folds.
        seed: Random seed of the shuffle.
    """
    rest = [place for place, test in enumerate(is_test) if not test]
    chosen: list[Split] = ["test"] * len(labels)
    of_rest = split_groups(
        [labels[place] for place in rest],
        [groups[place] for place in rest],
        val_share=val_share / (1.0 - 1.0 / num_folds),
        test_share=0.0,
        seed=seed,
    )
    for place, split in zip(rest, of_rest, strict=True):
        chosen[place] = split
    return chosen


def _divide(
    labels: Sequence[int], groups: Sequence[int], shares: Mapping[Part, float], seed: int
) -> list[Part]:
    """Return the part of each picture; among parts that are equally far below their shares, the first."""
    label_of, parts = np.asarray(labels, np.int64), list(shares)
    _, first, group_of, sizes = np.unique(
        np.asarray(groups, np.int64), return_index=True, return_inverse=True, return_counts=True
    )
    by_appearance = np.argsort(first)
    group_labels = label_of[first[by_appearance]]
    chosen = np.zeros(len(first), np.int64)
    for label in np.unique(label_of).tolist():
        of_class = by_appearance[group_labels == label]
        order = of_class[np.random.default_rng((seed, label)).permutation(len(of_class))]
        # Large groups first: they are the hardest to place.
        order = order[np.argsort(-sizes[order], kind="stable")]
        in_order = sizes[order].tolist()
        total = sum(in_order)
        missing = [share * total for share in shares.values()]
        for place, size in zip(order.tolist(), in_order, strict=True):
            target = missing.index(max(missing))
            missing[target] -= size
            chosen[place] = target
    return [parts[target] for target in chosen[group_of].tolist()]
