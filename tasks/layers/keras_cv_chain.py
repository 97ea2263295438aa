"""The chain of layers that makes augmented copies: the only module that knows keras-cv.

keras-cv 0.9.0 is the last of its releases; here is what it takes to have it draw from one seed, keep labels
true to the pixels, and stay within 0..255.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.layers import own_layers
from hemaflow.tasks.layers.keras_cv_table import LayerConfig

if TYPE_CHECKING:
    import tensorflow as tf


class Chain:
    """The layers as one traced function over batches of one size, without state between batches.

    keras-cv draws from many places: a generator of each layer, the global one, and TensorFlow's stateful
    random ops, whose state a traced function keeps and nothing can set again. Tracing anew for each shard
    would do, at 2.6 s for RandAugment and six more against 2 s of work on a 32 MiB shard (measured). So all
    of them are led, while the layers are built and traced, to one generator that is set anew for each batch.
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
        """Augment uint8[B, H, W, 3] and float32[B, C]; all that is drawn follows from `key`."""
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
        self, config: LayerConfig, layer: Any, images: tf.Tensor, labels: tf.Tensor
    ) -> tf.Tensor:
        """Apply a layer to the images that are drawn for it, and to no other: most of the work is saved."""
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


def _call(name: str, layer: Any, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply a layer to float32[B, H, W, 3] and float32[B, C], with labels that are true to the pixels.

    keras-cv's CutMix counts a pasted rectangle whole in the label, also where it hangs over the edge; the
    paper's authors count what is seen (github.com/clovaai/CutMix-PyTorch, train.py: "adjust lambda to exactly
    match pixel ratio"). So the labels go along as a mask, cut like the images, and its mean is the label.
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
    """Import keras-cv, and Keras before it without what Keras only looks for."""
    load_keras()
    import keras_cv

    return cast(ModuleType, keras_cv)


MIXING = ("CutMix", "FourierMix", "MixUp", "Mosaic")
"""Layers that make an image of several of its batch, and its label of theirs."""
FILLED: dict[str, Callable[[int], Any]] = {
    "value_range": lambda size: (0, 255),
    "target_size": lambda size: (size, size),
    "output_channels": lambda size: 3,
}
"""Arguments that follow from the records, not from the config: name → value for an image size in pixels."""


def _build(config: LayerConfig, image_size_pixels: int) -> Any:
    """Build a layer for images of 0..255 and that size."""
    if config.name in own_layers.BLEMISHES:
        return own_layers.build(config.name, config.factors, image_size_pixels)
    import inspect

    keras_cv = load_keras_cv()
    layer = getattr(keras_cv.layers, config.name)
    taken = inspect.signature(layer.__init__).parameters
    filled = {name: value(image_size_pixels) for name, value in FILLED.items() if name in taken}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in config.factors.items()}
    return layer(**filled, **given)


@contextmanager
def _all_draws_from(generator: tf.random.Generator) -> Iterator[None]:
    """Lead every draw of a layer that is built and traced meanwhile to one generator."""
    import tensorflow as tf

    stateless_gamma = tf.random.stateless_gamma
    stateless_shuffle = tf.random.experimental.stateless_shuffle

    def seed() -> tf.Tensor:
        return generator.make_seeds()[:, 0]

    def uniform(shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = "float32", **_: Any) -> Any:
        return generator.uniform(shape, minval, maxval, dtype)

    def normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = "float32", **_: Any) -> Any:
        return generator.normal(shape, mean, stddev, dtype)

    def gamma(shape: Any, alpha: Any, beta: Any = None, dtype: Any = "float32", **_: Any) -> Any:
        alpha = tf.convert_to_tensor(alpha, dtype)
        full_shape = tf.concat([tf.convert_to_tensor(shape, tf.int32), tf.shape(alpha)], axis=0)
        return stateless_gamma(full_shape, seed(), alpha, beta, dtype)

    def shuffle(value: Any, **_: Any) -> Any:
        return stateless_shuffle(value, seed())

    led = {
        "uniform": uniform,
        "normal": normal,
        "gamma": gamma,
        "shuffle": shuffle,
        "get_global_generator": lambda: generator,
        "Generator": SimpleNamespace(from_seed=lambda seed: generator),
    }
    own = {name: getattr(tf.random, name) for name in led}
    try:
        for name, function in led.items():
            setattr(tf.random, name, function)
        yield
    finally:
        for name, function in own.items():
            setattr(tf.random, name, function)
