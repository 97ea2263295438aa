"""The chain of layers that makes augmented copies: the only module that knows keras-cv.

keras-cv 0.9.0 is its last release. This module makes it draw from one seed, keep the labels true to the
pixels, and stay within 0..255.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.layers import own_layers
from hemaflow.tasks.layers.keras_cv_table import LayerConfig

if TYPE_CHECKING:
    import tensorflow as tf

BatchLayer = Callable[[own_layers.Batch], own_layers.Batch]
"""A layer that is built."""


class Chain:
    """The layers as one traced function over batches of one size, without state between batches.

    keras-cv draws from many places: a generator of each layer, the global one, and TensorFlow's stateful
    random ops, whose state a traced function keeps and nothing can set again. Tracing anew for each shard
    would do, but takes 2.6 s for RandAugment and six more, against 2 s of work on a 32 MiB shard (measured).
    So while the layers are built and traced, all of them draw from one generator, which is reset for each
    batch.
    """

    def __init__(
        self, layers: Sequence[LayerConfig], batch_size: int, image_size_pixels: int, num_classes: int
    ) -> None:
        import tensorflow as tf

        shape = (batch_size, image_size_pixels, image_size_pixels, 3)
        with tf.device("/CPU:0"):
            self._generator = tf.random.Generator.from_state([0, 0, 0], alg="philox")
            with _all_draws_from(self._generator):
                self._steps = [(layer, _build(layer, image_size_pixels)) for layer in layers]
                self._traced = tf.function(self._apply).get_concrete_function(
                    tf.TensorSpec(shape, tf.uint8), tf.TensorSpec((batch_size, num_classes), tf.float32)
                )

    def __call__(
        self, images: NDArray[np.uint8], labels: NDArray[np.float32], key: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Augment uint8[B, H, W, 3] and float32[B, C]; `key` is the random seed of all draws."""
        import tensorflow as tf

        with tf.device("/CPU:0"):
            self._generator.reset([0, 0, key])
            new_images, new_labels = self._traced(tf.constant(images), tf.constant(labels))
        return new_images.numpy(), new_labels.numpy()

    def _apply(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        import tensorflow as tf

        images = tf.cast(images, tf.float32)
        for config, layer in self._steps:
            if config.name in MIXING:
                changed, relabelled = _call(config.name, layer, images, labels)
                if config.probability < 1.0:
                    applied = self._generator.uniform(images.shape[:1]) < config.probability
                    changed = tf.where(applied[:, None, None, None], changed, images)
                    relabelled = tf.where(applied[:, None], relabelled, labels)
                images, labels = changed, relabelled
            elif config.probability < 1.0:
                images = self._change_some(config, layer, images, labels)
            else:
                images, _ = _call(config.name, layer, images, labels)
        return tf.cast(tf.round(images), tf.uint8), labels

    def _change_some(
        self, config: LayerConfig, layer: BatchLayer, images: tf.Tensor, labels: tf.Tensor
    ) -> tf.Tensor:
        """Apply a layer to the images drawn for it, and not to the others: that saves most of the work."""
        import tensorflow as tf

        drawn = tf.where(self._generator.uniform(images.shape[:1]) < config.probability)

        def changed() -> tf.Tensor:
            places = drawn[:, 0]
            some, _ = _call(config.name, layer, tf.gather(images, places), tf.gather(labels, places))
            return tf.tensor_scatter_nd_update(images, drawn, some)

        return tf.cond(tf.size(drawn) > 0, changed, lambda: images)


@lru_cache(maxsize=1)
def chain_of(layers: tuple[str, ...], batch_size: int, image_size_pixels: int, num_classes: int) -> Chain:
    """Return the chain of layers (given as JSON), built once in a process."""
    configs = [LayerConfig.model_validate_json(layer) for layer in layers]
    return Chain(configs, batch_size, image_size_pixels, num_classes)


def _call(name: str, layer: BatchLayer, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply a layer to float32[B, H, W, 3] and float32[B, C], with labels that are true to the pixels.

    keras-cv's CutMix counts the whole pasted rectangle in the label, even where it extends beyond the edge;
    the paper's authors count the visible part (github.com/clovaai/CutMix-PyTorch, train.py: "adjust lambda to
    exactly match pixel ratio"). So the labels are passed as a mask, cut like the images, and its mean is the
    label.
    """
    import tensorflow as tf

    batch = {"images": images, "labels": labels}
    if name == "CutMix":
        batch["segmentation_masks"] = tf.broadcast_to(
            labels[:, None, None, :], (*images.shape[:3], labels.shape[1])
        )
    out = layer(batch)
    relabelled = tf.reduce_mean(out["segmentation_masks"], axis=(1, 2)) if name == "CutMix" else out["labels"]
    # Some layers overshoot, and Equalization looks values up in a table of 256.
    changed = tf.clip_by_value(tf.ensure_shape(out["images"], images.shape), 0.0, 255.0)
    return changed, tf.ensure_shape(relabelled, labels.shape)


def load_keras_cv() -> ModuleType:
    """Import Keras, without the optional packages that it looks for, and then keras-cv."""
    load_keras()
    import keras_cv

    return cast(ModuleType, keras_cv)


MIXING = ("CutMix", "FourierMix", "MixUp", "Mosaic")
"""Layers that make an image of several of its batch, and its label of theirs."""
FILLED: dict[str, Callable[[int], object]] = {
    "value_range": lambda size: (0, 255),
    "target_size": lambda size: (size, size),
    "output_channels": lambda size: 3,
}
"""Arguments that follow from the records, not from the config: name → value for an image size in pixels."""


def _build(config: LayerConfig, image_size_pixels: int) -> BatchLayer:
    """Build a layer for images of 0..255 and that size."""
    if config.name in own_layers.OWN_LAYERS:
        return own_layers.build(config.name, config.factors, image_size_pixels)
    import inspect

    keras_cv = load_keras_cv()
    layer: Callable[..., BatchLayer] = getattr(keras_cv.layers, config.name)
    taken = inspect.signature(layer.__init__).parameters
    filled = {name: value(image_size_pixels) for name, value in FILLED.items() if name in taken}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in config.factors.items()}
    return layer(**filled, **given)


@contextmanager
def _all_draws_from(generator: tf.random.Generator) -> Iterator[None]:
    """Make every layer that is built and traced meanwhile draw from one generator."""
    import tensorflow as tf

    stateless_gamma = tf.random.stateless_gamma
    stateless_shuffle = tf.random.experimental.stateless_shuffle

    def seed() -> tf.Tensor:
        return generator.make_seeds()[:, 0]

    def uniform(
        shape: tf.Tensor, minval: float = 0, maxval: float | None = None, dtype: str = "float32", **_: object
    ) -> tf.Tensor:
        return generator.uniform(shape, minval, maxval, dtype)

    def normal(
        shape: tf.Tensor, mean: float = 0.0, stddev: float = 1.0, dtype: str = "float32", **_: object
    ) -> tf.Tensor:
        return generator.normal(shape, mean, stddev, dtype)

    def gamma(
        shape: tf.Tensor,
        alpha: tf.Tensor,
        beta: tf.Tensor | None = None,
        dtype: str = "float32",
        **_: object,
    ) -> tf.Tensor:
        alpha = tf.convert_to_tensor(alpha, dtype)
        full_shape = tf.concat([tf.convert_to_tensor(shape, tf.int32), tf.shape(alpha)], axis=0)
        return stateless_gamma(full_shape, seed(), alpha, beta, dtype)

    def shuffle(value: tf.Tensor, **_: object) -> tf.Tensor:
        return stateless_shuffle(value, seed())

    replacements = {
        "uniform": uniform,
        "normal": normal,
        "gamma": gamma,
        "shuffle": shuffle,
        "get_global_generator": lambda: generator,
        "Generator": SimpleNamespace(from_seed=lambda seed: generator),
    }
    originals = {name: getattr(tf.random, name) for name in replacements}
    try:
        for name, function in replacements.items():
            setattr(tf.random, name, function)
        yield
    finally:
        for name, function in originals.items():
            setattr(tf.random, name, function)
