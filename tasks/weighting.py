"""Weights of classes, for training on splits in which some are rare."""

from __future__ import annotations

from collections.abc import Sequence


def balanced_weights(class_counts: Sequence[int]) -> tuple[float, ...]:
    """Return a weight per class, by which each class weighs as much as any other: N / (C · n_c).

    Inverse frequency, as `balanced` in scikit-learn (King & Zeng, Political Analysis 9, 2001). Over the
    images of the split the mean weight is 1, so that the learning rate means what it did. A class without
    images has the weight 0 and is not counted.

    Args:
        class_counts: Images of each class in the training split. Augmented copies follow them.
    """
    num_images, num_present = sum(class_counts), sum(count > 0 for count in class_counts)
    return tuple(num_images / (num_present * count) if count else 0.0 for count in class_counts)
