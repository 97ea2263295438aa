"""The loss and the optimizer of a config, and the weights of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hemaflow.tasks.train.devices import clipped

if TYPE_CHECKING:
    import keras

    from hemaflow.tasks.train.config import TrainConfig


def loss_of(config: TrainConfig) -> keras.losses.Loss:
    """Return the Keras loss that a config names."""
    import keras

    smoothing = config.label_smoothing
    if config.loss == "focal":
        return keras.losses.CategoricalFocalCrossentropy(
            config.focal_alpha, config.focal_gamma, label_smoothing=smoothing
        )
    return keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)


def optimizer_of(config: TrainConfig, learning_rate: float) -> keras.optimizers.Optimizer:
    """Return a new optimizer of the kind that a config names, with the learning rate of a phase."""
    import keras

    builder: type[keras.optimizers.Optimizer] = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "lion": keras.optimizers.Lion,
        "sgd": keras.optimizers.SGD,
    }[config.optimizer]
    arguments: dict[str, float | bool] = {"learning_rate": learning_rate}
    if config.optimizer != "adam":
        arguments["weight_decay"] = config.weight_decay
    if config.optimizer == "sgd":
        arguments |= {"momentum": 0.9, "nesterov": True}
    if config.ema_momentum:
        arguments |= {"use_ema": True, "ema_momentum": config.ema_momentum}
    if config.gradient_clip_norm:
        return clipped(builder, config.gradient_clip_norm, **arguments)
    return builder(**arguments)


def balanced_weights(class_counts: Sequence[int]) -> tuple[float, ...]:
    """Return a weight per class that gives all classes the same total weight: N / (C · n_c).

    Inverse frequency, as `balanced` in scikit-learn (King & Zeng, Political Analysis 9, 2001). The mean
    weight over the images of the split is 1, so that the learning rate keeps its meaning. A class without
    images has the weight 0 and is not counted.

    Args:
        class_counts: Images of each class in the training split, without augmented copies.
    """
    num_images, num_present = sum(class_counts), sum(count > 0 for count in class_counts)
    return tuple(num_images / (num_present * count) if count else 0.0 for count in class_counts)
