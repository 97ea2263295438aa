"""What training minimises, and by which steps: the loss and the optimizer of a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hemaflow.tasks.train.config import TrainConfig
from collections.abc import Sequence


def loss_of(config: TrainConfig) -> Any:
    """Return the Keras loss that a config names."""
    import keras

    smoothing = config.label_smoothing
    if config.loss == "focal":
        return keras.losses.CategoricalFocalCrossentropy(
            config.focal_alpha, config.focal_gamma, label_smoothing=smoothing
        )
    return keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)


def optimizer_of(config: TrainConfig, learning_rate: float) -> Any:
    """Return a new Keras optimizer as a config names it, at the learning rate of a phase."""
    import keras

    common: dict[str, Any] = {"learning_rate": learning_rate}
    if config.ema_momentum:
        common |= {"use_ema": True, "ema_momentum": config.ema_momentum}
    if config.gradient_clip_norm:
        common["global_clipnorm"] = config.gradient_clip_norm
    if config.optimizer == "adam":
        return keras.optimizers.Adam(**common)
    common["weight_decay"] = config.weight_decay
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(momentum=0.9, nesterov=True, **common)
    builder = {"adamw": keras.optimizers.AdamW, "lion": keras.optimizers.Lion}[config.optimizer]
    return builder(**common)


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
