"""The split: stratified by class, seeded, and never through a group of near duplicates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tasks.index import Split


def split_groups(
    labels: Sequence[int], groups: Sequence[int], *, val_share: float, test_share: float, seed: int
) -> list[Split]:
    """Return the split of each picture.

    Groups are shuffled within their class (that of their first picture), and go, one after another, to the
    split that is furthest below its share of that class.

    Args:
        labels: The class of each picture, from 0.
        groups: The group of each picture; a group is never divided.
        val_share: Share of val, in 0..1.
        test_share: Share of test, in 0..1.
        seed: Of the shuffle.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for together in members.values():
        by_class[labels[together[0]]].append(together)
    shares: dict[Split, float] = {
        "test": test_share,
        "val": val_share,
        "train": 1.0 - val_share - test_share,
    }
    chosen: list[Split] = ["train"] * len(labels)
    for label, class_groups in sorted(by_class.items()):
        rng = np.random.default_rng((seed, label))
        order = [class_groups[k] for k in rng.permutation(len(class_groups))]
        # Large groups first: they are the hardest to place.
        order.sort(key=len, reverse=True)
        total = sum(len(together) for together in order)
        missing = {split: share * total for split, share in shares.items()}
        for together in order:
            target = max(missing, key=lambda split: missing[split])
            missing[target] -= len(together)
            for index in together:
                chosen[index] = target
    return chosen
