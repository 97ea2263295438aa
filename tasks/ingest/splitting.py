"""The split: stratified by class, seeded, and without dividing a group of near duplicates."""

from __future__ import annotations

from collections import defaultdict
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
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for together in members.values():
        by_class[labels[together[0]]].append(together)
    chosen: dict[int, Part] = {}
    for label, class_groups in sorted(by_class.items()):
        rng = np.random.default_rng((seed, label))
        order = [class_groups[k] for k in rng.permutation(len(class_groups))]
        # Large groups first: they are the hardest to place.
        order.sort(key=len, reverse=True)
        total = sum(len(together) for together in order)
        missing = {part: share * total for part, share in shares.items()}
        for together in order:
            target = max(missing, key=lambda part: missing[part])
            missing[target] -= len(together)
            for index in together:
                chosen[index] = target
    return [chosen[index] for index in range(len(labels))]
